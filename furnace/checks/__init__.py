"""Checks before a long run: data, weights, space, memory and time.

The names here are imported at their first use, see `furnace/__init__.py`.
"""

from lazy_loader import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "checkup": ["Checkup"],
        "dryrun": ["dry_run"],
    },
)
