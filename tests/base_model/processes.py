"""Run Python code in a new process, to see what it imports."""

import json
import subprocess
import sys

from tests.conftest import REPOSITORY


def imported_modules(code: str) -> set[str]:
    """Names of the modules that are loaded after running `code`."""
    report = f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))
