"""Names, folders and identities of trials."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from furnace.compare.runner import median_step, scores_by_epoch
from furnace.compare.trials import (
    LONGEST_NAME,
    Trial,
    first_difference,
    folder_name,
    parse_method,
    split_methods,
)
from furnace.engine.record import TRAINING_METRICS, append_metrics
from furnace.seg_opr.metrics import MetricList


def test_name_and_arguments_of_a_trial_follow_from_its_fields(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("a\nb\n")
    C = SimpleNamespace(total_iterations=21, train_source=str(listing))
    trial = Trial("cps", 8, 2, tmp_path, {"lr": "0.1", "seed": "2"}, C)
    assert (trial.name, trial.snapshots, trial.iterations) == ("cps 1/8 seed 2", tmp_path / "snapshot", 21)
    assert trial.labeled == 2
    assert trial.arguments() == ["-o", "lr=0.1", "-o", "seed=2"]
    assert trial.arguments(lr="1", nepochs="2") == ["-o", "lr=1", "-o", "seed=2", "-o", "nepochs=2"]
    assert trial.record() == {} and trial.result is None


def test_a_method_is_parsed_into_name_and_settings() -> None:
    assert parse_method(" cpcl : reweight = false :unsup_weight=2") == {
        **{"method": "cpcl", "reweight": "false", "unsup_weight": "2"}
    }


def test_values_of_settings_may_contain_commas() -> None:
    text = "cps, cpcl:cutmix_mask_prop_range=0.1,0.5:lr=1,mean_teacher,cps,cpcl:backbone=a,b"
    assert split_methods(text) == [
        "cps", "cpcl:cutmix_mask_prop_range=0.1,0.5:lr=1", "mean_teacher", "cpcl:backbone=a,b",
    ]  # fmt: skip
    assert split_methods("cps,unknown") == ["cps", "unknown"]


def test_folders_are_named_after_methods_and_long_names_end_with_a_digest() -> None:
    assert folder_name("cpcl:reweight=false:unsup_source=/a b/c.txt") == "cpcl_reweight-false_unsup_source--a-b-c.txt"
    assert folder_name("x" * LONGEST_NAME) == "x" * LONGEST_NAME
    long, other = folder_name("x" * LONGEST_NAME + "y"), folder_name("x" * LONGEST_NAME + "z")
    assert long != other and {len(long), len(other)} == {LONGEST_NAME + 9}
    assert long.startswith("x" * LONGEST_NAME + "-")


@pytest.mark.parametrize(
    ("there", "here", "told"),
    [
        ({}, {}, None),
        ({"lr": 1.0}, {"lr": 2.0}, "lr = 1.0 there, 2.0 here"),
        ({"train_scale_array": [1, 2]}, {"train_scale_array": (1, 2)}, None),
        ({}, {"eval_metrics": ("iou",)}, None),  # the default, which an older record lacks
        ({"of_an_older_version": 1}, {}, None),
    ],
)
def test_different_settings_are_reported(there: dict, here: dict, told: str | None) -> None:
    lists = {"lists": {"test": "a"}}
    assert first_difference({"settings": there, **lists}, {"settings": here, **lists}) == told


def test_different_or_missing_lists_are_reported() -> None:
    def told(there: dict, here: dict) -> str | None:
        return first_difference({"settings": {}, "lists": there}, {"settings": {}, "lists": here})

    assert told({"test": "a"}, {"test": "a"}) is None
    assert told({"test": "a", "labeled": "b"}, {"test": "x", "labeled": "y"}) == "the labelled images or labels differ"
    assert told({"test": "a"}, {"test": "a", "validation": "b"}) == "the validation images or labels differ"
    assert told({"test": "a", "unlabeled": "b"}, {"test": "a"}) == "the unlabelled images or labels differ"


def test_the_time_per_iteration_is_the_median_of_the_second_half(tmp_path: Path) -> None:
    assert median_step(tmp_path) is None
    for iteration, seconds in enumerate((50.0, 40.0, 30.0, 1.0, 2.0, 9.0)):
        append_metrics(tmp_path / TRAINING_METRICS, {"iteration": iteration, "step_seconds": seconds}, "a")
    assert median_step(tmp_path) == 2


def test_epochs_with_all_metrics_have_scores(tmp_path: Path) -> None:
    metrics = MetricList(["iou"])
    assert metrics.main == "miou"
    entry = {"snapshot": "a.pth", "branch": "1", "other": 1}
    (tmp_path / "results.json").write_text(json.dumps([entry | {"epoch": 1, "miou": 0.5}, entry | {"epoch": 2}]))
    assert scores_by_epoch(tmp_path, metrics) == {1: {"miou": 0.5}}
    assert scores_by_epoch(tmp_path / "missing", metrics) == {}
