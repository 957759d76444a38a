"""Settings that depend on encoders: sizes of crops and windows, normalisation, one encoder for each branch."""

from collections.abc import Callable

import pytest

from furnace.methods.build import build_network, encoders
from furnace.methods.settings import load_config, open_settings
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.conftest import REPOSITORY

DINO = "vit_small_patch14_dinov2"


def test_sides_that_do_not_fit_are_named_with_the_nearest(make_settings: Callable[..., Settings]):
    with pytest.raises(UserError) as error:
        make_settings(backbone=DINO, image_height=352, image_width=350, eval_crop_size=480)
    crop, window = str(error.value).splitlines()
    assert "image_height = 352, image_width = 350" in crop and crop.endswith("the nearest are 350 and 364")
    assert "eval_crop_size = 480" in window and window.endswith("the nearest are 476 and 490")


def test_an_encoder_of_one_size_takes_only_this_size(make_settings: Callable[..., Settings]):
    with pytest.raises(UserError, match=r"the nearest are 224$"):
        make_settings(backbone="beit_base_patch16_224", image_height=224, image_width=224, eval_crop_size=256)


@pytest.mark.parametrize("backbone", [f"resnet18,{DINO}", (DINO, "resnet18")])
def test_sizes_must_fit_both_encoders(make_settings: Callable[..., Settings], backbone):
    fits = {"image_height": 56, "image_width": 70, "eval_crop_size": 56}
    C = make_settings(backbone=backbone, **fits)
    assert C.backbone in (f"resnet18,{DINO}", f"{DINO},resnet18")
    with pytest.raises(UserError, match="the nearest are 56 and 70"):
        make_settings(backbone=backbone, **fits | {"image_height": 64})


def test_the_windows_of_an_evaluation_fit_the_encoder_of_the_snapshot(make_settings: Callable[..., Settings]):
    given = make_settings(eval_crop_size=40)
    saved = make_settings(backbone=DINO, image_height=56, image_width=56, eval_crop_size=56).model_dump()
    with pytest.raises(UserError, match=r"epoch-1\.pth: its settings can't be used .*nearest are 28 and 42"):
        open_settings(saved, "epoch-1.pth", given)
    assert open_settings(saved, "epoch-1.pth", given.updated(eval_crop_size=42)).backbone == DINO


def test_normalisation_is_the_first_encoder_s_and_the_second_s_is_noted(make_settings: Callable[..., Settings]):
    C = make_settings(backbone="test_convnext,resnet18")
    assert (C.image_mean, C.image_std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    (note,) = [note for note in C.notes if note.startswith("C.backbone: ")]
    assert "resnet18 was trained with image_mean (0.485, 0.456, 0.406)" in note and "both branches use (0.5" in note
    chosen = {"image_mean": (0.1, 0.2, 0.3), "image_std": (0.4, 0.6, 0.7)}
    for name, value in chosen.items():
        C = make_settings(backbone="test_convnext", **{name: value})
        assert {key: getattr(C, key) for key in chosen} == dict.fromkeys(chosen, (0.5, 0.5, 0.5)) | {name: value}
    shown = load_config(REPOSITORY / "exp_camvid", {"image_std": "0.5,0.5,0.5"}, quick=True)
    assert (shown.image_mean, shown.image_std) == ("that of tf_efficientnet_lite0", (0.5, 0.5, 0.5))
    same = make_settings(backbone="resnet34 , resnet18")
    assert not [note for note in same.notes if "was trained" in note]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"backbone": ("resnet18", "resnet34")}, (["resnet18", "resnet34"], [None, None])),
        ({"backbone": "resnet18 , resnet34", "pretrained_model": ["imagenet", None]},
         (["resnet18", "resnet34"], ["imagenet", None])),
        ({"backbone": "resnet18", "pretrained_model": "none,imagenet"}, (["resnet18", "resnet18"], [None, "imagenet"])),
    ],
)  # fmt: skip
def test_encoders_and_weights_of_each_branch(make_settings: Callable[..., Settings], given: dict, expected: tuple):
    C = make_settings(**given)
    assert encoders(C) == expected
    assert isinstance(C.backbone, str) and encoders(C.updated(**C.model_dump())) == expected


def test_a_path_with_a_comma_is_one_file(make_settings: Callable[..., Settings], tmp_path):
    file = tmp_path / "a,b.pth"
    file.touch()
    assert encoders(make_settings(pretrained_model=str(file)))[1] == [str(file)] * 2


def test_two_files_need_two_trained_networks(make_settings: Callable[..., Settings]):
    with pytest.raises(UserError, match=r"C\.pretrained_model = imagenet,none: method 'supervised' trains 1 network"):
        build_network(make_settings(method="supervised", pretrained_model="imagenet,none"))
