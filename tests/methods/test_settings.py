"""Settings that follow from others, and the settings that a snapshot is opened with."""

import pickle

import pytest

from furnace.base_model.encoders import ENCODERS
from furnace.methods.method import METHODS
from furnace.methods.settings import OF_SNAPSHOT, conclude, load_config, open_settings
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY

VOC = {"dataset_name": "pascal_voc", "train_folder": "train_aug", "eval_folder": "val"}


@pytest.mark.parametrize(
    ("assigned", "found"),
    [
        ({}, {}),
        (
            {"dataset_path": "/data/pascal_voc", "pretrained_model": "resnet18.pth"},
            {"backbone": "resnet18", **VOC},
        ),
        ({"dataset_path": "/data/pascal_voc", "pretrained_model": None}, VOC),  # the case before has no effect
        ({"dataset_path": "/data/pascal_voc", "dataset_name": "mine"}, {}),
        ({"dataset_path": "/data/mine", "pretrained_model": "/w/wide_net.pth"}, {}),
        ({"pretrained_model": "/resnet18/resnet101_v1c.pth"}, {"backbone": "resnet101"}),
        ({"pretrained_model": "resnet101.pth", "backbone": "resnet18"}, {}),
    ],
    ids=lambda value: ",".join(value) or "nothing",
)
def test_missing_settings_follow_from_those_in_config_py(assigned: dict, found: dict) -> None:
    assert conclude(assigned) == found


def test_the_longest_encoder_name_in_a_file_name_counts(monkeypatch) -> None:
    for name in ("net", "big_net"):
        monkeypatch.setitem(ENCODERS, name, ENCODERS.find("resnet18"))
    assert conclude({"pretrained_model": "big_net.pth"})["backbone"] == "big_net"


def test_a_method_can_restrict_any_setting(make_settings, monkeypatch) -> None:
    known = {"unsup_warmup": (0,), "ohem": (False,), "union_choice": ("confidence",)}
    monkeypatch.setattr(METHODS.find("cpcl"), "known", known)
    allowed = {"unsup_warmup": 0, "ohem": False, "union_choice": "confidence"}
    make_settings(**allowed)
    for name, value in {"unsup_warmup": 0.5, "ohem": True, "union_choice": "disagreement"}.items():
        with pytest.raises(UserError, match=rf"{name}.*the method does not support this value"):
            make_settings(**allowed | {name: value})


def test_a_setting_of_another_method_is_noted() -> None:
    (note,) = load_config(REPOSITORY / "exp_voc", {"method": "cps", "reweight": "false", "unsup_weight": "1"}).notes
    assert note == "reweight: is no setting of method 'cps' and has no effect"
    assert load_config(REPOSITORY / "exp_voc", {"reweight": "false"}).notes == ()


@pytest.mark.parametrize("method", ["supervised_strong", "unimatch_v2"])
def test_settings_of_training_do_not_keep_a_snapshot_from_its_use(make_settings, method: str) -> None:
    saved = make_settings(method=method).model_dump() | {"cutmix": False}  # as in older versions
    assert open_settings(saved, "a.pth").method == method
    with pytest.raises(UserError, match=r"^a\.pth: its settings can't be used \(method: "):
        open_settings(saved | {"method": [method]}, "a.pth")
    assert open_settings(saved, "a.pth", make_settings(cutmix=False)).method == method


def test_settings_are_pickled_completely(make_settings) -> None:
    C = make_settings(reweight=False, lr=0.3)
    again = pickle.loads(pickle.dumps(C))
    assert again == C and again.notes == C.notes
    noted = type(C).noted(C.model_dump(), ("a note",))
    assert pickle.loads(pickle.dumps(noted)).notes == ("a note",)


def test_a_snapshot_decides_about_its_networks_and_the_experiment_about_the_rest(make_settings) -> None:
    saved = make_settings(method="cps", num_classes=2, head_channels=8, lr=0.5, class_weight=[1.0, 2.0]).model_dump()
    given = make_settings(lr=0.1, class_weight=[1.0] * 21)
    C = open_settings(saved, "a.pth", given)
    assert {name: getattr(C, name) for name in OF_SNAPSHOT} == {name: saved[name] for name in OF_SNAPSHOT}
    assert (C.lr, C.class_weight) == (0.1, None)
    assert open_settings({}, "a.pth", given) is given
    del saved["head_channels"]
    assert open_settings(saved, "a.pth", given).head_channels == given.head_channels


def test_without_an_experiment_all_settings_are_those_of_the_snapshot(make_settings) -> None:
    saved = make_settings(method="cps", num_classes=2, lr=0.5, class_weight=[1.0, 2.0]).model_dump()
    C = open_settings(saved | {"of_a_later_version": 1}, "a.pth")
    assert C.model_dump() == saved


def test_settings_of_a_snapshot_that_can_not_be_used_are_named(make_settings) -> None:
    with pytest.raises(UserError, match=r"^a\.pth: contains no settings; name the experiment"):
        open_settings({}, "a.pth")
    bad = {"num_classes": "many", "lr": "fast", "nepochs": "few", "batch_size": "all"}
    with pytest.raises(UserError, match=r"^a\.pth: its settings can't be used \(num_classes: .*; lr: ") as told:
        open_settings(make_settings().model_dump() | bad, "a.pth")
    assert "; batch_size: " in str(told.value) and "nepochs" not in str(told.value), "the first three"


def test_names_that_only_training_needs_do_not_keep_a_snapshot_from_its_use(make_settings) -> None:
    saved = make_settings().model_dump() | {"eval_metrics": ("iou", "of_a_script"), "optimizer": "of_a_script"}
    C = open_settings(saved, "a.pth")
    assert (C.eval_metrics, C.optimizer) == (make_settings().eval_metrics, "sgd")
    with pytest.raises(UserError, match="eval_metrics"):
        open_settings(saved | {"eval_metrics": 3}, "a.pth")


@pytest.mark.parametrize("name", ["method", "backbone", "decoder"])
def test_an_entry_of_a_script_that_is_not_imported_gets_a_hint(make_settings, name: str) -> None:
    with pytest.raises(UserError, match=r"no .* 'of_a_script'.*\); import the file that registers it first$"):
        open_settings(make_settings().model_dump() | {name: "of_a_script"}, "a.pth")
