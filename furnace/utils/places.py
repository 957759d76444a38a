"""Location of the data, for commands without a config.py."""

import os
from pathlib import Path

ROOT_VARIABLE = "volna"  # as in the published code
CHECKOUT = Path(__file__).resolve().parents[2]


def data_root(default: Path = CHECKOUT) -> Path:
    """The folder that contains DATA: the environment variable volna, as in config.py, or the checkout."""
    return Path(os.environ.get(ROOT_VARIABLE) or default)
