"""Label pictures and videos with the experiment described in config.py next to this file; see --help."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from furnace.cli import predict  # noqa: E402
from furnace.utils.errors import run  # noqa: E402

if __name__ == "__main__":
    run(lambda: predict(HERE))
