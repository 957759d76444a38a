"""The commands of the experiment folders: help, settings, results and exit status."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from furnace import cli
from furnace.base_model.network import Network
from furnace.datasets.dataset import EvalSet
from furnace.inference.predictor import Predictor
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY, TINY_RUN
from tests.tiny_data import write_image
from tests.tiny_run import NARROW

COMMANDS = {"train": cli.train, "eval": cli.evaluate, "predict": cli.predict, "export": cli.export}
EXPERIMENTS = sorted(path.parent.name for path in REPOSITORY.glob("exp_*/config.py"))


@pytest.fixture
def options(voc_root: Path, tmp_path: Path, lively_snapshot: Path) -> list[str]:
    """Arguments for a command of exp_voc: the tiny data set and a temporary folder."""
    settings = {**TINY_RUN, **NARROW, "volna": tmp_path, "log_dir": tmp_path / "log", "eval_crop_size": 40}
    return ["-d", "cpu", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_of_every_command(name: str, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        COMMANDS[name](REPOSITORY / "exp_voc", ["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert f"examples:\n  python {name}.py" in shown and "exit status:" in shown
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize("name", COMMANDS)
def test_every_folder_has_the_same_commands(name: str):
    texts = {(REPOSITORY / folder / f"{name}.py").read_text() for folder in EXPERIMENTS}
    assert len(EXPERIMENTS) == 6 and len(texts) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_printing_the_settings_writes_nothing(name: str, options: list[str], capsys, tmp_path: Path):
    with pytest.raises(SystemExit):
        COMMANDS[name](REPOSITORY / "exp_voc", [*options, "-o", "lr=0.125", "--settings"])
    shown = capsys.readouterr().out
    assert "0.125" in shown and "learning rate of both optimizers" in shown
    assert not (tmp_path / "log").exists()


def test_predict_evaluate_and_export(options: list[str], lively_snapshot: Path, tmp_path: Path, capsys):
    photo = write_image(tmp_path / "photo.png", np.zeros((20, 24, 3), dtype=np.uint8))
    given = [*options, "-e", str(lively_snapshot)]
    assert cli.predict(REPOSITORY / "exp_voc", [*given, str(photo), "--no-overlay", "--confidence"]) == 0
    out = tmp_path / "log" / "predict"
    assert (out / "label" / "photo.png").is_file() and (out / "confidence" / "photo.png").is_file()
    assert not (out / "overlay").exists()
    cli.evaluate(REPOSITORY / "exp_voc", [*given, "--branch", "2", "-s"])
    assert len(list((tmp_path / "log" / "predictions" / "lively" / "strip").iterdir())) == 3
    assert "branch 2" in (tmp_path / "log" / "report.html").read_text()
    cli.evaluate(REPOSITORY / "exp_voc", [*given, "--submit", str(tmp_path / "upload")])
    assert len(list((tmp_path / "upload").rglob("comp6_val_cls/*.png"))) == 3
    model = tmp_path / "model.pt"
    cli.export(REPOSITORY / "exp_voc", [*given, "--format", "torchscript", "-p", str(model)])
    assert model.is_file()
    assert "largest of all: 0.00e+00" in capsys.readouterr().out


def test_an_incomplete_video_changes_the_status(options: list[str], monkeypatch):
    monkeypatch.setattr(Predictor, "run", lambda self, *_: setattr(self, "status", 1))
    assert cli.predict(REPOSITORY / "exp_voc", [*options, "ride.mp4"]) == 1


def test_dry_run_checks_everything_and_writes_nothing(options: list[str], voc_root: Path, tmp_path: Path, capsys):
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert cli.train(REPOSITORY / "exp_voc", [*options, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for part in ("2 epochs of 3 iterations, 6 in all", "training time", "memory", "snapshots", "problems: 0"):
        assert part in shown
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files
    (voc_root / "train_aug" / "label" / "2007_000003.png").unlink()
    assert cli.train(REPOSITORY / "exp_voc", [*options, "--dry-run"]) == 1
    assert "2007_000003.png" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        cli.train(REPOSITORY / "exp_voc", [*options, "--dry-run", "-o", "train_source=nowhere.txt"])


def test_dry_run_notes_the_snapshots_of_an_earlier_run(options: list[str], tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("furnace.checks.dryrun.predicted_peak", lambda *_: 2**28)
    assert cli.train(REPOSITORY / "exp_voc", options) == 0
    (hint,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    words = shlex.split(hint.removeprefix("next: python eval.py"))
    assert len(words) < len(options), "the snapshot knows the rest"
    assert {"reduce_zero_label", "eval_source", "dataset_path"} <= cli.FOR_EVALUATION, "it does not know these"
    assert cli.evaluate(REPOSITORY / "exp_voc", words) is None
    for more, noted in (([], True), (["-c", "auto", "-o", "nepochs=3"], False), (["--overwrite"], False)):
        assert cli.train(REPOSITORY / "exp_voc", [*options, *more, "--dry-run"]) == 0
        assert ("holds 2 snapshots of a run, the latest" in capsys.readouterr().out) == noted
    assert (tmp_path / "log" / "snapshot" / "epoch-last.pth").is_file()


def test_dry_run_is_refused_in_several_processes(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="--dry-run: needs one process only"):
        cli.train(REPOSITORY / "exp_voc", ["--dry-run"])


def test_diagnosed_training_leaves_pictures_and_figures(options: list[str], tmp_path: Path):
    extra = ["-o", "image_iter=4", "-o", "diagnose=true", "-o", "record_info_iter=2"]
    assert cli.train(REPOSITORY / "exp_voc", [*options, *extra]) == 0
    log = tmp_path / "log"
    assert [path.name for path in sorted((log / "strips").iterdir())] == [
        "iteration-000004.png",
        "iteration-000006.png",
    ]
    assert len((log / "truth.jsonl").read_text().splitlines()) == 2
    assert len((log / "figures.jsonl").read_text().splitlines()) == 3


SHORTAGES = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "CUDA"),
    (RuntimeError("CUDA error: out of memory"), "CUDA"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "CPU"),
    (MemoryError(), "CPU"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "CPU"),  # a loader that could not be started
]
SMALLER_WINDOWS = r"lower C\.eval_batch_size = \d+ .*, C\.eval_crop_size = 40 or the largest of C\.eval_scale_array"
SMALLER_STEPS = (
    r"set C\.checkpoint = True .*, raise C\.accumulate = 1 .* "
    r"lower C\.batch_size = 3, C\.image_height x C\.image_width = 16 x 20"
)


@pytest.mark.parametrize("error, where", SHORTAGES)
@pytest.mark.parametrize("name, more", [*((n, []) for n in COMMANDS), ("eval", ["--submit", "upload"])])
def test_out_of_memory_names_the_settings_to_lower(
    name: str,
    more: list[str],
    error: Exception,
    where: str,
    options: list[str],
    lively_snapshot: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """At any place: here when the network moves to its device, outside of the loops that handle errors."""

    def hungry(*_, **__) -> None:
        raise error

    monkeypatch.setattr(Network, "to", hungry)
    inputs = [str(REPOSITORY / "docs" / "images" / "strip.png")] if name == "predict" else []
    inputs += ["-e", str(lively_snapshot)] if name != "train" else []
    what = SMALLER_STEPS if name == "train" else SMALLER_WINDOWS
    with pytest.raises(UserError, match=rf"^{where} out of memory: {what}.*, or end other programs$") as told:
        COMMANDS[name](REPOSITORY / "exp_voc", [*options, *inputs, *more])
    assert "\n" not in str(told.value)


def test_any_other_error_keeps_its_traceback(options: list[str], lively_snapshot: Path, monkeypatch):
    def broken(*_, **__) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Network, "to", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.evaluate(REPOSITORY / "exp_voc", [*options, "-e", str(lively_snapshot)])


def test_a_loader_killed_while_evaluating_is_one_line(options: list[str], lively_snapshot: Path, monkeypatch):
    monkeypatch.setattr(EvalSet, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"^a loader process \(\d+\) .*; usually .* lower C\.num_workers") as told:
        cli.evaluate(REPOSITORY / "exp_voc", [*options, "-e", str(lively_snapshot), "-o", "num_workers=1"])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("opacity", ["2", "-0.1", "much"])
def test_wrong_arguments_are_one_line(options: list[str], opacity: str):
    with pytest.raises(UserError, match=r"--opacity: .*: must lie between 0 and 1; --help shows all options$") as told:
        cli.predict(REPOSITORY / "exp_voc", [*options, "a.png", "--opacity", opacity])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("wrong", "meant"), [("--overwrote", "--overwrite"), ("--dry_run", "--dry-run")])
def test_the_closest_option_is_named(wrong: str, meant: str):
    with pytest.raises(UserError, match=f"unrecognized arguments: {wrong}; did you mean {meant}\\?"):
        cli.train(REPOSITORY / "exp_toy", [wrong])


@pytest.mark.parametrize(("wrong", "setting"), [("--lr", "lr"), ("--batch-size", "batch_size"), ("--debug", "debug")])
def test_a_setting_given_as_an_option_is_explained(wrong: str, setting: str):
    with pytest.raises(UserError, match=f"unrecognized arguments: {wrong} .*settings follow -o: -o {setting}=VALUE"):
        cli.train(REPOSITORY / "exp_toy", [wrong, "1"])


@pytest.mark.parametrize("name", ["--local-rank", "--local_rank"])
def test_the_option_of_pytorchs_old_launcher_is_accepted(name: str, capsys):
    with pytest.raises(SystemExit):
        cli.train(REPOSITORY / "exp_toy", [f"{name}=0", "--settings", "momentum"])
    assert "bn_momentum" in capsys.readouterr().out


def test_one_of_several_processes_without_its_number_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UserError, match=r"WORLD_SIZE = 2, but no LOCAL_RANK.*docs/machines\.md"):
        cli.train(REPOSITORY / "exp_toy", [])


def test_settings_are_filtered_by_a_word(capsys):
    with pytest.raises(SystemExit):
        cli.train(REPOSITORY / "exp_toy", ["--settings", "momentum"])
    shown = capsys.readouterr().out
    assert "bn_momentum" in shown and "nepochs" not in shown
    with pytest.raises(UserError, match="--settings frobnicate: no setting has this"):
        cli.train(REPOSITORY / "exp_toy", ["--settings", "frobnicate"])


def test_a_users_error_is_one_line_and_status_2(options: list[str], tmp_path: Path):
    command = [sys.executable, str(REPOSITORY / "exp_voc" / "predict.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.strip() == "error: predict.py: nothing to predict; name a picture, a folder, a pattern or a video"
    )


def test_continue_and_overwrite_exclude_each_other():
    with pytest.raises(UserError, match="--overwrite: not allowed with argument -c"):
        cli.train(REPOSITORY / "exp_toy", ["-c", "auto", "--overwrite"])
