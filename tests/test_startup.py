"""Commands answer at once: --help, --settings and mistyped options do not import libraries that take seconds."""

import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

SLOW = {
    "torch", "torchvision", "timm", "cv2", "scipy", "matplotlib", "PIL", "av", "tifffile", "onnx", "tensorboardX",
    "pycocotools", "wandb",
}  # fmt: skip
HELP = {"--help": 0, "--hlep": 2}
SLIPS = {"-o lrr=1": 2, "-o lr=abc": 2, "-o lr": 2, "-o method=cpc": 2}
OF_AN_EXPERIMENT = {
    "train.py": {"-c nowhere.pth": 2},
    "eval.py": {"-e nowhere.pth": 2},
    "predict.py": {"": 2, **{f"{slip} photo.png": status for slip, status in SLIPS.items()}},
    "export.py": {"--format onx": 2},
}
TOOLS = {path.stem: HELP for path in REPOSITORY.glob("furnace/tools/*.py") if "__main__" in path.read_text("utf-8")}
for name in ("compare", "doctor", "make_splits"):
    TOOLS[name] = HELP | {"nowhere": 2, **{f"exp_toy {slip}": status for slip, status in SLIPS.items()}}
TOOLS["compare"] |= {"exp_toy --methods cpc": 2, "exp_toy --seeds x": 2}

# Runs a script or module with each line of arguments in turn. The last line of stdout is JSON: for each line, its exit
# status and the packages that are imported by then.
RUNNER = """
import json, runpy, sys

command, lines = sys.argv[1], json.loads(sys.argv[2])
found = {}
for line in lines:
    sys.argv = [command, *line.split()]
    try:
        if command.endswith(".py"):
            runpy.run_path(command, run_name="__main__")
        else:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        found[line] = end.code or 0, sorted(name for name in sys.modules if "." not in name)
print()
print(json.dumps(found))
"""


def check(command: str, statuses: dict[str, int]) -> None:
    """Run a command with lines of arguments; each must end with its status and import no slow package."""
    words = [sys.executable, "-c", RUNNER, command, json.dumps(list(statuses))]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {line: status for line, (status, _) in found.items()} == statuses, done.stderr
    for line, (_, imported) in found.items():
        slow = sorted(SLOW & set(imported))
        assert not slow, f"{command} {line} imports {', '.join(slow)}"
    assert "pydantic" in imported or command.startswith("furnace.tools."), "nothing was run"


@pytest.mark.parametrize("command", OF_AN_EXPERIMENT)
def test_commands_of_an_experiment(command: str) -> None:
    check(f"exp_toy/{command}", HELP | {"--settings": 0} | SLIPS | OF_AN_EXPERIMENT[command])


def test_an_experiment_with_an_encoder_of_timm() -> None:
    check("exp_camvid/train.py", HELP | SLIPS | {"--settings image_mean -o lrr=1": 2})


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in REPOSITORY.glob("exp_*/config.py")))
def test_settings_of_every_experiment(folder: str) -> None:
    files = [path.name for path in (REPOSITORY / folder).glob("config*.py")]
    check(f"{folder}/train.py", {f"--settings -f {file}": 0 for file in files})


@pytest.mark.parametrize("name", TOOLS)
def test_tools(name: str) -> None:
    check(f"furnace.tools.{name}", TOOLS[name])
