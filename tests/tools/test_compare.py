"""`compare` on the toy data, and its handling of runs with a stub experiment that takes no time."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from furnace.compare.plan import expected_seconds, overhead_seconds, step_seconds
from furnace.compare.runner import Runner
from furnace.compare.trials import SOURCES, first_difference, folder_name, plan_trials
from furnace.datasets.toy import make_toy
from furnace.methods.method import METHODS
from furnace.methods.settings import load_config
from furnace.seg_opr.metrics import METRICS, Metric
from furnace.tools.compare import main
from furnace.utils.errors import UserError
from furnace.utils.settings import COSTS, EVALUATION, PLACES, Settings
from tests.conftest import REPOSITORY
from tests.stub_experiment import write_stub

FAST = {
    "allow_absent_classes": "true",
    "backbone": "test_resnet",
    "image_height": 32,
    "image_width": 32,
    "head_channels": 8,
    "nepochs": 2,
    "niters_per_epoch": 2,
    "num_workers": 0,
    "batch_size": 2,
}
EPOCHS = 4


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A small toy data set with a validation list; returns the folder for C.volna."""
    counts = {"train": 16, "val": 3, "held": 2}
    make_toy(tmp_path / "DATA" / "toy", counts=counts, ratios=(4, 8))
    return tmp_path


@pytest.fixture
def stub(toy: Path) -> Path:
    """An experiment over the toy data whose commands take no time."""
    return write_stub(toy / "exp_stub")


def arguments(
    stub: Path, *more: str, methods: str = "supervised,cpcl", ratios: str = "8", seeds: str = "0,1"
) -> list[str]:
    """A command line for the stub experiment."""
    words = [str(stub), "--methods", methods, "--ratios", ratios, "--seeds", seeds, "--out", str(stub.parent / "out")]
    return [*words, "-d", "cpu", "--probe", "0", "-o", f"nepochs={EPOCHS}", "-o", "batch_size=2", *more]


def calls(stub: Path) -> list[str]:
    return (stub / "calls").read_text().splitlines()


def comparison(stub: Path) -> dict:
    return json.loads((stub.parent / "out" / "comparison.json").read_text(encoding="utf-8"))


def test_two_methods_of_the_toy_experiment(toy: Path, capsys: pytest.CaptureFixture) -> None:
    """The real commands, from data to tables."""
    out = toy / "out"
    words = ["exp_toy", "--methods", "supervised,cpcl:reweight=false", "--ratios", "4", "--seeds", "0"]
    words += ["--out", str(out), "--probe", "0", "-d", "cpu", "--keep", "none", "-o", f"volna={toy}"]
    words += [word for name, value in FAST.items() for word in ("-o", f"{name}={value}")]
    assert main(words) == 0

    found = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert [(trial["method"], trial["seed"]) for trial in found["trials"]] == [
        (method, 0) for method in ("supervised", "cpcl:reweight=false")
    ]
    for trial in found["trials"]:
        (evaluated,) = json.loads((Path(out) / folder_of(trial) / "test" / "results.json").read_text())
        assert trial["result"]["last"] == {"epoch": 1, "miou": evaluated["miou"]}
        assert trial["result"]["iterations"] == 4 and trial["result"]["labeled"] == 4
        assert trial["result"]["step_seconds"] > 0 and trial["result"]["peak_memory_gib"] > 0.1
        assert trial["identity"]["settings"]["reweight"] == (trial["method"] == "supervised")
        lists = {"labeled", "test"} | ({"unlabeled"} if trial["method"] != "supervised" else set())
        assert set(trial["identity"]["lists"]) == lists
        assert not list((out / folder_of(trial) / "snapshot").glob("*.pth"))
    row = found["rows"][1]
    supervised, cpcl = (trial["result"]["last"]["miou"] for trial in found["trials"])
    assert row["difference"] == pytest.approx(cpcl - supervised)
    page = (out / "comparison.md").read_text(encoding="utf-8")
    assert f"{100 * row['mean']:.2f}" in page and "cpu" in page
    assert (out / "comparison.png").stat().st_size > 10_000
    assert "expected" in capsys.readouterr().out


def folder_of(trial: dict) -> str:
    return f"{folder_name(trial['method'])}_1-{trial['ratio']}_seed-{trial['seed']}"


def test_labels_without_labelled_pixels_are_a_failure(stub: Path, capsys: pytest.CaptureFixture) -> None:
    (stub / "blank").touch()
    assert main(arguments(stub, seeds="0")) == 1
    assert "val.txt: no pixel has a label" in capsys.readouterr().out.replace("\n", "")


def test_another_file_of_the_folder_is_compared_by_its_name(stub: Path, capsys: pytest.CaptureFixture) -> None:
    other = (stub / "config.py").rename(stub / "config_modern.py")
    assert main([str(other), *arguments(stub, seeds="0")[1:]]) == 0
    assert {path.name for path in stub.glob("ran_*")} == {"ran_train_config_modern.py", "ran_eval_config_modern.py"}
    assert "exp_stub_modern: 2 runs" in capsys.readouterr().out


def test_finished_runs_are_kept_and_failed_ones_repeated(stub: Path, capsys: pytest.CaptureFixture) -> None:
    (stub / "fail_cpcl").touch()
    assert main(arguments(stub)) == 1
    assert "out of luck" in capsys.readouterr().out
    assert [row["method"] for row in comparison(stub)["rows"]] == ["supervised"]
    (stub / "fail_cpcl").unlink()
    before = len(calls(stub))
    assert main(arguments(stub)) == 0
    assert {line.split()[1] for line in calls(stub)[before:]} == {"cpcl"}
    rows = comparison(stub)["rows"]
    assert [row["method"] for row in rows] == ["supervised", "cpcl"]
    assert rows[1]["difference"] == pytest.approx(0.05) and rows[1]["standard_error"] == pytest.approx(0, abs=1e-9)
    assert rows[1]["mean"] == pytest.approx(0.1 * (EPOCHS - 1) + 0.005 + 0.05)
    before = len(calls(stub))
    assert main(arguments(stub)) == 0 and len(calls(stub)) == before


@pytest.mark.usefixtures("registries")
def test_a_new_metric_has_a_table_and_columns(stub: Path, capsys: pytest.CaptureFixture) -> None:
    """It has its own tables beside those of the ranking metric."""

    @METRICS.register("luck")
    class Luck(Metric):
        numbers: ClassVar = {"luck": "good luck"}

    assert main(arguments(stub, "-o", "eval_metrics=iou,luck")) == 0
    shown, page = capsys.readouterr().out, (stub.parent / "out" / "comparison.md").read_text(encoding="utf-8")
    lines = [[field.strip() for field in line.split("|")] for line in page.splitlines() if line.startswith("|")]
    assert [(line[2], line[4]) for line in lines if not line[2].startswith("-")] == [
        ("method", "mIoU"),
        ("supervised", "30.50"),
        ("cpcl", "35.50"),
        ("method", "good luck"),
        ("supervised", "50.00"),
        ("cpcl", "50.00"),
    ]
    assert "good luck" in shown
    assert [(row["metric"], row["mean"]) for row in comparison(stub)["rows"]][2:] == [("luck", 0.5)] * 2
    assert ",luck,cpcl," in (stub.parent / "out" / "comparison.csv").read_text()


BESIDE = """
from furnace.methods.method import METHODS
from furnace.methods.supervised import Supervised

METHODS.register("beside")(type("Beside", (Supervised,), {}))
"""


def test_a_method_in_a_file_beside_config_py_is_known(stub: Path) -> None:
    (stub / "beside.py").write_text(BESIDE)
    with open(stub / "config.py", "a") as file:
        file.write("import beside\n")
    try:
        assert main(arguments(stub, "--dry-run", methods="supervised,beside")) == 0
    finally:
        METHODS.pop("beside", None)
        sys.modules.pop("beside", None)


def test_an_unknown_metric_is_refused_before_anything_runs(stub: Path) -> None:
    with pytest.raises(UserError, match="-o eval_metrics=iuo: no metric 'iuo'; did you mean iou"):
        main(arguments(stub, "-o", "eval_metrics=iuo"))
    assert not (stub / "calls").exists()


def test_only_missing_parts_are_repeated(stub: Path) -> None:
    """For runs that were interrupted before, during and after their evaluation."""
    words = arguments(stub, "--keep", "all", "--validation", held_out(stub), methods="cpcl", seeds="0")
    assert main(words) == 0
    folder = stub.parent / "out" / "cpcl_1-8_seed-0"
    record, whole = json.loads((folder / "trial.json").read_text()), comparison(stub)["rows"]

    def again(**epochs: int) -> list[str]:
        """Remove the result and all but the first evaluated epochs; returns the commands that run then."""
        (folder / "trial.json").write_text(json.dumps({key: record[key] for key in record if key != "result"}))
        for name, count in epochs.items():
            path = folder / name.replace("_", "-") / "results.json"
            path.write_text(json.dumps(json.loads(path.read_text())[:count]))
        before = len(calls(stub))
        assert main(words) == 0
        assert [row["mean"] for row in comparison(stub)["rows"]] == [row["mean"] for row in whole]
        return [" ".join(line.split()[::4]) for line in calls(stub)[before:]]

    assert again() == []
    assert again(validation=2) == ["eval 2-3"]
    assert again(test=0) == ["eval 3-3", "eval 1-1"]
    for path in (folder / "snapshot").glob("epoch-*.pth"):
        path.unlink()
    assert again() == ["train auto", "eval 0-3", "eval 3-3", "eval 1-1"]


def held_out(stub: Path) -> str:
    return str(stub.parent / "DATA" / "toy" / "held.txt")


def test_the_best_epoch_is_chosen_on_a_validation_list_and_scored_on_the_test_set(stub: Path) -> None:
    assert main(arguments(stub, "--validation", held_out(stub), "--keep", "all", seeds="1")) == 0
    trial = comparison(stub)["trials"][0]["result"]
    assert trial["best"]["epoch"] == 1 and trial["best"]["miou"] == pytest.approx(0.1 + 0.01)
    assert trial["best"]["validation"] == {"0": 0.1, "1": 0.5, "2": 0.3, "3": 0.2}
    assert trial["last"] == {"epoch": 3, "miou": pytest.approx(0.3 + 0.01)}
    rows = {(row["which"], row["method"]): row["mean"] for row in comparison(stub)["rows"]}
    assert rows["best", "supervised"] == pytest.approx(0.11) and rows["last", "supervised"] == pytest.approx(0.31)


@pytest.mark.parametrize("name", ["val", "train"])
def test_a_validation_list_that_is_tested_or_trained_on_is_refused(stub: Path, name: str) -> None:
    with pytest.raises(UserError, match="shares"):
        main(arguments(stub, "--validation", str(stub.parent / "DATA" / "toy" / f"{name}.txt")))
    assert not (stub / "calls").exists()


def test_each_method_s_own_lists_are_compared_with_the_validation_list(stub: Path) -> None:
    source = stub.parent / "DATA" / "toy" / "unlabeled.txt"
    source.write_text("held/image/held_0000.png\nheld/image/held_0001.png\n")
    with pytest.raises(UserError, match="shares 2 images with the unlabelled images"):
        main(arguments(stub, "--validation", held_out(stub), methods=f"cpcl:unsup_source={source},cpcl"))


def test_the_time_left_ignores_runs_whose_figures_are_lost(stub: Path) -> None:
    assert main(arguments(stub, methods="cpcl", seeds="0")) == 0
    (trial,) = plan_trials(stub, stub.parent / "out", ["cpcl"], [8], [0], {"batch_size": "2", "nepochs": str(EPOCHS)})
    result = trial.result
    known = {"iterations": 10, "step_seconds": 2, "train_seconds": 25, "evaluate_seconds": 5}
    lost = {**result, "step_seconds": None}
    assert overhead_seconds({"a": {**result, **known}, "b": lost}) == 10
    assert overhead_seconds({"b": lost}) == 0
    assert step_seconds([trial], {trial.name: lost}, {}) == {"cpcl": None}
    assert step_seconds([trial], {trial.name: {**result, **known}}, {}) == {"cpcl": 2}


def test_each_seed_draws_its_own_labelled_images(stub: Path) -> None:
    assert main(arguments(stub, "--draw-subsets", ratios="4,8")) == 0
    lists = {}
    for trial in comparison(stub)["trials"]:
        lists.setdefault((trial["ratio"], trial["seed"]), set()).add(trial["identity"]["lists"]["labeled"])
    assert all(len(hashes) == 1 for hashes in lists.values()), "methods of one seed learn from the same images"
    assert lists[4, 0] != lists[4, 1]
    few, many = (
        set((stub.parent / f"out/subsets/seed-0/train_labeled_1-{ratio}.txt").read_text().split()) for ratio in (8, 4)
    )
    assert few < many and (len(few), len(many)) == (2, 4)


def test_one_labelled_list_needs_no_ratios(stub: Path, capsys: pytest.CaptureFixture) -> None:
    words = [str(stub), "--methods", "supervised", "--seeds", "0", "--probe", "0", "--dry-run"]
    words += ["--out", str(stub.parent / "out")]
    source = stub.parent / "DATA" / "toy" / "subset_train" / "train_labeled_1-8.txt"
    main([*words, "-o", f"train_source={source}"])
    assert f"2 (1/{load_config(stub).labeled_ratio})" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"train_labeled_1-16\.txt: no such list"):  # the first of the defaults
        main(words)
    config = stub / "config.py"
    config.write_text(config.read_text() + "C.train_source = {16: 'a', 8: 'b', 4: 'c'}[C.labeled_ratio]\n")
    with pytest.raises(UserError, match="a: no such list"):  # config.py may know these ratios alone
        main(words)


def test_a_negative_probe_is_refused(stub: Path) -> None:
    with pytest.raises(UserError, match="--probe -3: expected a whole number from 0"):
        main(arguments(stub, "--probe", "-3"))


def test_a_file_in_the_place_of_the_folder_is_named(stub: Path) -> None:
    (stub.parent / "a_file").write_text("")
    with pytest.raises(UserError, match="a_file is a file"):
        main(arguments(stub, "--out", str(stub.parent / "a_file" / "out")))


@pytest.mark.parametrize("name", ["labeled.txt", "train_labeled_92.txt"])
def test_lists_of_other_names_can_not_be_drawn(stub: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"--draw-subsets: .*{name}: is not named \.\.\._labeled_1-4\.txt"):
        main(arguments(stub, "--draw-subsets", "-o", f"train_source={stub / name}", ratios="4"))
    assert not (stub.parent / "out").exists()


def test_plan_shows_time_and_runs_nothing(stub: Path, capsys: pytest.CaptureFixture) -> None:
    words = arguments(stub, "--dry-run", "--probe", "3", "-o", "niters_per_epoch=60")
    assert main(words) == 0
    shown = capsys.readouterr().out
    # The median of the later steps, 0.25 s, times 60 x 4 iterations and two seeds.
    assert "240" in shown and "0 of 2" in shown and "2 min" in shown and "total time: about 4 min" in shown
    assert {line.split()[0] for line in calls(stub)} == {"train"} and len(calls(stub)) == 2
    assert not list((stub.parent / "out").glob("*/trial.json"))


def test_other_settings_are_another_run(stub: Path) -> None:
    assert main(arguments(stub, seeds="0")) == 0
    assert main(arguments(stub, "-o", "num_workers=3", seeds="0")) == 0
    with pytest.raises(UserError, match=r"lr = 0.02 there, 0.5 here"):
        main(arguments(stub, "-o", "lr=0.5", seeds="0"))
    listing = stub.parent / "DATA" / "toy" / "val.txt"
    listing.write_text("\n".join(reversed(listing.read_text().split())))
    with pytest.raises(UserError, match="evaluation images or labels"):
        main(arguments(stub, seeds="0"))


def test_runs_on_other_images_of_the_same_names_do_not_count_as_finished(stub: Path) -> None:
    """For example on a half-size copy."""
    assert main(arguments(stub, seeds="0")) == 0
    counts = {"train": 16, "val": 3, "held": 2}
    make_toy(stub.parent / "other", seed=1, counts=counts, ratios=(4, 8))
    with pytest.raises(UserError, match=r"the .* images or labels differ"):
        main(arguments(stub, "-o", f"dataset_path={stub.parent / 'other'}", seeds="0"))
    shutil.copytree(stub.parent / "DATA" / "toy", stub.parent / "copy")
    done = len(calls(stub))
    assert main(arguments(stub, "-o", f"dataset_path={stub.parent / 'copy'}", seeds="0")) == 0
    assert len(calls(stub)) == done, "a copy is the same data"


def test_images_added_to_an_unlabelled_folder_make_another_run(stub: Path) -> None:
    folder = stub.parent / "more"
    shutil.copytree(stub.parent / "DATA" / "toy" / "held" / "image", folder)
    overrides = {"unsup_source": str(folder), "batch_size": "2"}
    (trial,) = plan_trials(stub, stub.parent / "out", ["cpcl"], [8], [0], overrides)
    before = trial.identity()
    shutil.copy(next(folder.iterdir()), folder / "new.png")
    assert trial.identity() != before


def test_a_run_of_a_killed_comparison_is_not_used_with_other_settings(stub: Path, monkeypatch) -> None:
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "_attempt", killed)
        with pytest.raises(KeyboardInterrupt):
            main(arguments(stub, seeds="0", methods="supervised"))
    with pytest.raises(UserError, match=r"lr = 0.02 there, 0.5 here"):
        main(arguments(stub, "-o", "lr=0.5", seeds="0", methods="supervised"))
    (record,) = (stub.parent / "out").glob("*/trial.json")
    record.unlink()
    (record.parent / "snapshot").mkdir()
    (record.parent / "snapshot" / "epoch-1.pth").touch()
    with pytest.raises(UserError, match=r"contains snapshots but no trial.json"):
        main(arguments(stub, seeds="0", methods="supervised"))


def test_subsets_are_drawn_from_the_list_that_is_given(stub: Path) -> None:
    names = (stub.parent / "DATA" / "toy" / "train.txt").read_text().split()
    drawn = {}
    for name, lines in (("a", names[:8]), ("b", names[8:])):
        path = stub.parent / f"{name}.txt"
        path.write_text("\n".join(lines))
        main(arguments(stub, "--draw-subsets", "--list", str(path), "--dry-run", ratios="8,4", seeds="0"))
        folder = stub.parent / "out/subsets/seed-0"
        drawn[name] = [set((folder / f"train_labeled_1-{ratio}.txt").read_text().split()) for ratio in (8, 4)]
        assert drawn[name][0] < drawn[name][1] <= set(lines), "nested"
    main(arguments(stub, "--draw-subsets", "--list", str(stub.parent / "a.txt"), "--dry-run", ratios="8", seeds="0"))
    four = set((stub.parent / "out/subsets/seed-0/train_labeled_1-4.txt").read_text().split())
    assert four == drawn["a"][1], "lists of another origin are written again, too"


def test_runs_of_an_earlier_list_of_the_data_set_are_not_mixed_with_new_ones(stub: Path) -> None:
    whole = stub.parent / "DATA" / "toy" / "train.txt"
    assert main(arguments(stub, "--draw-subsets", seeds="0")) == 0
    whole.write_text("\n".join(whole.read_text().split()[:-3]))
    with pytest.raises(UserError, match="is from another run"):
        main(arguments(stub, "--draw-subsets", seeds="0,1"))


@pytest.mark.parametrize("copy", [os.link, shutil.copy], ids=["links", "copies"])
def test_a_validation_list_of_links_or_copies_of_the_test_set_is_refused(stub: Path, copy) -> None:
    toy = stub.parent / "DATA" / "toy"
    for number in range(2):
        (toy / f"held/image/held_{number:04d}.png").unlink()
        copy(toy / f"val/image/val_{number:04d}.png", toy / f"held/image/held_{number:04d}.png")
    with pytest.raises(UserError, match="shares 2 images with the evaluation images"):
        main(arguments(stub, "--validation", held_out(stub)))


def test_pruned_epochs_can_not_be_chosen(stub: Path) -> None:
    with pytest.raises(UserError, match=r"C.keep_snapshots = 1 leaves only the last epochs"):
        main(arguments(stub, "--validation", held_out(stub), "-o", "keep_snapshots=1"))


def test_all_versions_of_a_comparison_are_listed(stub: Path) -> None:
    assert main(arguments(stub, seeds="0")) == 0
    train = stub / "train.py"
    train.write_text(train.read_text().replace('"torch": "0"', '"torch": "1"'))
    assert main(arguments(stub)) == 0
    facts = comparison(stub)
    assert "torch 0" in facts["versions"] and "torch 1" in facts["versions"]
    assert "4 of 4 finished, from 20" in facts["runs"]


def test_few_seeds_are_noted(stub: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments(stub)) == 0
    assert "With 2 seeds a difference is not reliable" in capsys.readouterr().out
    assert main(arguments(stub, seeds="0,1,2,3,4")) == 0
    output = capsys.readouterr().out
    assert "not reliable" not in output and "95 % interval" in output


def test_settings_of_later_versions_count_with_their_defaults() -> None:
    old = {"settings": {"lr": 0.1}, "lists": {}}
    assert first_difference(old, {"settings": {"lr": 0.1, "cutmix": True}, "lists": {}}) is None
    assert "cutmix" in first_difference(old, {"settings": {"lr": 0.1, "cutmix": False}, "lists": {}})


def test_excluded_settings_exist() -> None:
    assert set(Settings.model_fields) >= PLACES | SOURCES | COSTS | EVALUATION


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "supervised,zero_shot"], "no method 'zero_shot'; there are: cpcl"),
        (["--methods", "cpcl:reweigth=false"], "did you mean reweight"),
        (["--methods", "cpcl:reweight"], "key=value"),
        (["--methods", "cpcl:seed=5"], "--methods cpcl:seed=5: seed is set for each run"),
        (["--methods", "cps,cps:reweight=false"], "reweight is no setting of this method and has no effect"),
        (["--methods", "supervised_strong:cutmix=false"], "cutmix.*the method does not support this value"),
        (["--methods", "cpcl:method=cps"], "method is set for each run"),
        (
            ["--methods", "cpcl:eval_source=other.txt"],
            "all methods share the evaluation images and metrics; use -o eval_source",
        ),
        (["--ratios", "0"], "whole numbers from 1"),
        (["--seeds", "a"], "whole numbers from 0"),
        (["--ratios", "3"], "train_labeled_1-3.txt: no such list"),
        (["--validation", "nowhere.txt"], "no such list"),
        (["-o", "seed=4"], "--seeds"),
        (["-o", "train_source=mine.txt"], r"--ratios 8: C.train_source = mine.txt for every .* --ratios 16"),
        (["--jobs", "0"], "--jobs 0: expected a whole number from 1"),
    ],
)
def test_bad_input_is_named(stub: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([*arguments(stub), *words])
    assert not (stub / "calls").exists()


def test_no_such_experiment() -> None:
    with pytest.raises(UserError, match="no such file; name an experiment folder"):
        main(["exp_nothing"])


def test_damaged_record_is_named(stub: Path) -> None:
    assert main(arguments(stub, methods="cpcl", seeds="0")) == 0
    path = stub.parent / "out" / "cpcl_1-8_seed-0" / "trial.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UserError, match=r"trial.json: can't be read"):
        main(arguments(stub, methods="cpcl", seeds="0"))


def test_two_comparisons_do_not_work_on_one_run(stub: Path) -> None:
    folder = stub.parent / "out" / "cpcl_1-8_seed-0"
    folder.mkdir(parents=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            main(arguments(stub, methods="cpcl", seeds="0"))


def test_devices_work_at_the_same_time(stub: Path) -> None:
    """Two runs wait for each other, so one after the other would never end."""
    (stub / "meet").touch()
    overrides = {"batch_size": "2", "nepochs": str(EPOCHS)}
    trials = plan_trials(stub, stub.parent / "out", ["cpcl"], [8], [0, 1], overrides)
    found = list(Runner(stub / "config.py").run_all(trials, ["0", "1"]))
    assert {trial.seed for trial, _ in found} == {0, 1}
    assert {line.split()[3] for line in calls(stub)} == {"0", "1"}


def test_jobs_share_a_device(stub: Path) -> None:
    (stub / "meet").touch()
    assert main(arguments(stub, "--jobs", "2", methods="cpcl")) == 0
    assert {line.split()[3] for line in calls(stub)} == {"cpu"}


@pytest.mark.parametrize("probe", ["0", "2"])  # during the run itself, and while its time is measured
def test_an_interrupted_comparison_lets_the_run_save_and_continues_later(stub: Path, probe: str) -> None:
    (stub / "wait").touch()
    words = arguments(stub, "--probe", probe, methods="cpcl", seeds="0")
    words = [sys.executable, "-m", "furnace.tools.compare", *words]
    process = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (stub / "waiting").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT and "continues from here" in errors
    assert (stub / "stopped").exists()
    (stub / "wait").unlink()
    assert main(arguments(stub, methods="cpcl", seeds="0")) == 0
    assert [line.split()[0] for line in calls(stub)] == ["train", "train", "eval"]


def test_of_equally_good_epochs_the_later_is_chosen(stub: Path) -> None:
    script = (stub / "eval.py").read_text()
    (stub / "eval.py").write_text(script.replace("[0.1, 0.5, 0.3, 0.2][epoch]", "[0.1, 0.5, 0.5, 0.2][epoch]"))
    assert main(arguments(stub, "--validation", held_out(stub), seeds="0", methods="supervised")) == 0
    (trial,) = comparison(stub)["trials"]
    assert trial["result"]["best"]["epoch"] == 2


def test_one_snapshot_of_a_finished_run_is_kept(stub: Path) -> None:
    assert main(arguments(stub, seeds="0", methods="supervised")) == 0
    (folder,) = (stub.parent / "out").glob("*/snapshot")
    assert [path.name for path in folder.glob("*.pth")] == ["epoch-last.pth"]


def test_more_devices_than_runs_save_no_time(stub: Path) -> None:
    trials = plan_trials(stub, stub.parent / "out", ["supervised"], [8], [0, 1], {"batch_size": "2"})
    seconds = [expected_seconds(trials, {}, {"supervised": 1.0}, at_once) for at_once in (1, 2, 8)]
    assert seconds[0] == 2 * seconds[1] and seconds[1] == seconds[2]


def test_relative_overrides_mean_the_same_for_drawn_subsets(stub: Path, monkeypatch) -> None:
    monkeypatch.chdir(stub.parent)
    words = arguments(
        stub, "--draw-subsets", "--dry-run", "-o", "dataset_path=DATA/toy", methods="supervised", seeds="0"
    )
    assert main(words) == 0


def test_methods_of_many_settings_have_different_folders(stub: Path) -> None:
    source = stub.parent / "DATA" / "toy" / "subset_train" / "train_unlabeled_1-8.txt"
    methods = [f"cpcl:unsup_weight={weight}" + f":unsup_source={source}" * 4 for weight in (1, 2)]
    assert main(arguments(stub, methods=",".join(methods), seeds="0")) == 0
    assert len({folder_of(trial) for trial in comparison(stub)["trials"]}) == 2
