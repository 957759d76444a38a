"""Compare methods: plan the runs of a comparison, run them, and write tables and plots.

The names here are imported at their first use, see `furnace/__init__.py`.
"""

from lazy_loader import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    submodules=["tables"],
    submod_attrs={
        "runner": ["Runner", "TrialFailed"],
    },
)
