"""An experiment folder whose train.py and eval.py only write the files of the real ones, at once.

Files in the folder control it: `fail_METHOD` makes training fail, `wait` makes it wait until the file is removed or
SIGTERM arrives (then it writes `stopped`), `meet` makes two runs wait for each other, `blank` makes evaluation find no
labelled pixel. It writes the values `miou` and `luck`. `calls` lists the commands: script, method, seed, device, and
the snapshots to evaluate or to continue; `ran_SCRIPT_FILE` shows which file replaced config.py.
"""

import shutil
from pathlib import Path

from tests.conftest import REPOSITORY

COMMON = """
import json, os, signal, sys, time
from pathlib import Path

C = dict(word.split("=", 1) for flag, word in zip(sys.argv, sys.argv[1:]) if flag == "-o")
here, log, snapshots = Path(__file__).parent, Path(C["log_dir"]), Path(C["snapshot_dir"])
for folder in (log, snapshots):
    folder.mkdir(parents=True, exist_ok=True)
with open(here / "calls", "a") as calls:
    options = {flag: word for flag, word in zip(sys.argv, sys.argv[1:]) if flag in ("-d", "-c", "-e", "-f")}
    which = options.get("-e", options.get("-c", "anew"))
    calls.write(" ".join([Path(__file__).stem, C["method"], C["seed"], options["-d"], which]) + "\\n")
(here / f"ran_{Path(__file__).stem}_{options['-f']}").touch()
"""
TRAIN = """
def stop(*_):
    (here / "stopped").touch()
    os._exit(143)

signal.signal(signal.SIGTERM, stop)
while (here / "wait").exists():
    (here / "waiting").touch()
    time.sleep(0.05)
(here / f"here_{C['seed']}").touch()
while (here / "meet").exists() and len(list(here.glob("here_*"))) < 2:
    time.sleep(0.01)
if (here / f"fail_{C['method']}").exists():
    sys.exit("error: out of luck")
for epoch in range(int(C["nepochs"])):
    (snapshots / f"epoch-{epoch}.pth").write_text("weights")
(snapshots / "epoch-last.pth").write_text("weights")
(snapshots / "run.json").write_text(json.dumps({"device": "cpu (test)", "versions": {"torch": "0"}}))
figures = [{"iteration": i, "step_seconds": s, "memory_gib": 1.5} for i, s in enumerate([9, 9, 0.25, 0.25, 0.5])]
(log / "figures.jsonl").write_text("\\n".join(map(json.dumps, figures)))
"""
# Epoch 1 is the best on the validation list, the last epoch on the evaluation images; per seed 0.01 is added, for
# methods other than supervised 0.05.
EVAL = """
held = C.get("eval_source", "").endswith("held.txt")
path = log / "results.json"
entries = json.loads(path.read_text()) if path.is_file() else []
first, last = map(int, which.split("-"))
for epoch in range(first, last + 1):
    test = 0.1 * epoch + 0.01 * int(C["seed"]) + 0.05 * (C["method"] != "supervised")
    miou = [0.1, 0.5, 0.3, 0.2][epoch] if held else test
    miou = None if (here / "blank").exists() else miou  # as for labels without labelled pixels
    entries.append({"snapshot": str(epoch), "branch": "1", "epoch": epoch, "miou": miou, "luck": 0.5})
path.write_text(json.dumps(entries))
"""


def write_stub(folder: Path) -> Path:
    """Write the experiment, with the config.py of exp_toy; returns the folder."""
    folder.mkdir()
    shutil.copy(REPOSITORY / "exp_toy" / "config.py", folder)
    (folder / "train.py").write_text(COMMON + TRAIN, encoding="utf-8")
    (folder / "eval.py").write_text(COMMON + EVAL, encoding="utf-8")
    return folder
