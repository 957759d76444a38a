"""CPCL: conservative-progressive collaborative learning for semi-supervised semantic segmentation.

The `__init__.py` of packages that need PyTorch, OpenCV or SciPy lists the names that are imported at their first use
(by lazy-loader, see Scientific Python's SPEC 1): `from furnace import engine`, then `engine.Trainer`. Commands and
methods use these names, so that --help, --settings and a mistyped option are answered at once: see
tests/test_startup.py.
"""
