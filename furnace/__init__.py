"""CPCL: conservative-progressive collaborative learning for semi-supervised semantic segmentation.

Rooms that need PyTorch, OpenCV or SciPy name in their `__init__.py` what is imported at its first use (by lazy-loader,
see Scientific Python's SPEC 1): `from furnace import engine`, then `engine.Trainer`. Commands and methods take those
names from there, so that --help, --settings and a mistyped option are answered at once: see tests/test_startup.py.
"""
