"""An experiment on one's own images: pairing, lists, settings that train, and refused input."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from furnace.datasets.loaders import build_train_set
from furnace.datasets.reading import read_label
from furnace.datasets.splits import read_list, write_lists
from furnace.engine.preconditions import check_shares
from furnace.methods.settings import load_config
from furnace.tools import new_experiment, own_lists
from furnace.tools.new_experiment import main
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.conftest import REPOSITORY
from tests.tiny_data import write_image, write_palette_label

MASKED, BARE = 10, 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images with masks of four values and six images without; every fifth image is in a sub-folder."""
    rng = np.random.default_rng(0)
    for i in range(MASKED + BARE):
        sub = "deep/" if i % 5 == 0 else ""
        write_image(tmp_path / "photos" / f"{sub}p{i:02d}.jpg", rng.integers(0, 256, (70, 90 + i, 3), dtype=np.uint8))
        if i < MASKED:
            mask = rng.choice(np.array([0, 1, 3, 255], dtype=np.uint8), (70, 90 + i))
            suffix = "_mask" if i == 1 else ""
            write_palette_label(tmp_path / "masks" / f"p{i:02d}{suffix}.png", mask)
    return tmp_path


def begin(folder: Path, *extra: str, name: str = "mine") -> None:
    main([name, *folders(folder), "--root", str(folder), *extra])


def test_an_experiment_for_a_cpu_is_short_for_any_number_of_images(folder: Path):
    begin(folder, "--cpu", name="short")
    begin(folder, name="whole")
    many = {"max_samples": "4000", "batch_size": "4"}
    assert load_config(folder / "exp_short", many).niters_per_epoch == 80
    assert load_config(folder / "exp_whole", many).niters_per_epoch == 1000


def test_lists_and_settings_fit_the_images(folder: Path, capsys: pytest.CaptureFixture):
    begin(folder, "--cpu")
    C = load_config(folder / "exp_mine")
    assert (C.num_classes, C.image_height, C.batch_size, C.head_channels) == (4, 64, 4, 64)
    assert (C.backbone, C.pretrained_model) == ("tf_efficientnet_lite0", "imagenet"), "an installed package has them"
    assert C.niters_per_epoch == 2 and C.dataset_path == str(folder)
    labeled = read_list(C.train_source, C.dataset_path)
    val = read_list(C.eval_source, C.dataset_path)
    unlabeled = read_list(C.unsup_source, C.dataset_path, labeled=False)
    assert (len(labeled), len(val), len(unlabeled)) == (8, 2, BARE)
    for sample in labeled + val:
        assert sample.label.name.removesuffix(".png").removesuffix("_mask") == sample.image.stem
    everything = {path.resolve() for path in (folder / "photos").rglob("*.jpg")}
    assert {sample.image.resolve() for sample in labeled + val + unlabeled} == everything
    dataset = build_train_set(C)
    dataset.prepare()
    assert dataset[0, 0]["images"].shape == (64, 64, 3)
    assert "8 training images with masks and 6 without" in capsys.readouterr().out


def test_its_commands_work_in_any_folder(folder: Path, capsys: pytest.CaptureFixture):
    begin(folder, "--cpu")
    assert f"next: cd {os.path.relpath(folder / 'exp_mine')} && python train.py --dry-run" in capsys.readouterr().out
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in ("train.py", "eval.py", "predict.py", "export.py"):
        text = (folder / "exp_mine" / command).read_text().replace(repr(str(REPOSITORY)), "str(HERE.parent)")
        assert text == (REPOSITORY / "exp_voc" / command).read_text(), "nothing else differs"
    words = [sys.executable, str(folder / "exp_mine" / "train.py"), "--settings"]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and str(folder) in done.stdout, done.stderr


def test_masks_without_class_indices_are_refused_or_noted(folder: Path, capsys: pytest.CaptureFixture):
    begin(folder)
    assert "note: no mask contains 2\n" in capsys.readouterr().out
    masks = list((folder / "masks").rglob("*.png"))
    for path in masks:
        write_palette_label(path, np.where(read_label(path, 4) > 1, 2, 1).astype(np.uint8))
    begin(folder, name="from_one")
    assert "note: no mask contains 0; do the indices start at 1? They must start at 0" in capsys.readouterr().out
    for path in masks:
        write_palette_label(path, 60 * read_label(path, 5))
    with pytest.raises(UserError, match=r"\.png: contains 120, and all masks 60, 120 instead of class indices 0, 1, 2"):
        begin(folder, name="grey")
    for path in masks:
        path.rename(path.with_suffix(".svg"))
    with pytest.raises(UserError, match=r"masks: 0 masks with images \(masks are PNG, .* but p.*\.svg is not") as told:
        begin(folder, name="none")
    assert "swapped" not in str(told.value)
    for path in masks:
        path.with_suffix(".svg").rename(path.parent / f"other{path.name}")
    with pytest.raises(UserError, match="fits no image"):
        begin(folder, name="none")


def test_swapped_folders_are_recognized(folder: Path):
    for path in (folder / "photos").rglob("*.jpg"):
        write_image(folder / "png" / f"{path.stem}.png", np.zeros((70, 90, 3), np.uint8))
    swapped = ["--images", str(folder / "masks"), "--masks", str(folder / "png"), "--root", str(folder)]
    with pytest.raises(UserError, match=r"png: fits no image; .*; are the two folders swapped\?"):
        main(["mine", *swapped])
    words = ["--images", str(folder / "masks"), "--masks", str(folder / "photos"), "--root", str(folder)]
    with pytest.raises(UserError, match=r"photos: 0 masks .* but .*\.jpg is not.*are the two folders swapped\?"):
        main(["mine", *words])
    for mask in (folder / "masks").glob("*.png"):
        mask.unlink()
    with pytest.raises(UserError, match=r"masks: 0 masks with images \(the folder is empty\)"):
        begin(folder)


def test_class_names_and_settings_for_a_gpu(folder: Path):
    begin(folder, "--classes", "sky, tree,road ,car,sign", "--val", "0.5")
    C = load_config(folder / "exp_mine")
    assert C.class_names == ("sky", "tree", "road", "car", "sign") and C.num_classes == 5
    assert C.backbone == "resnet50" and len(read_list(C.eval_source, C.dataset_path)) == 5


def test_the_command_of_the_page(folder: Path):
    page = (REPOSITORY / "docs" / "own-dataset.md").read_text(encoding="utf-8")
    command = re.search(r"python -m furnace\.tools\.new_experiment (.*?)\n```", page, re.DOTALL)[1]
    arguments = shlex.split(command.replace("\\\n", " "))
    places = {"mine/images": str(folder / "photos"), "mine/masks": str(folder / "masks")}
    main([*(places.get(argument, argument) for argument in arguments), "--root", str(folder)])
    assert load_config(folder / "exp_mine").class_names[6] == "sign symbol"


def test_lists_are_written_where_the_environment_says(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("volna", str(tmp_path / "elsewhere"))
    begin(folder)
    C = load_config(folder / "exp_mine")
    assert C.train_source == str(tmp_path / "elsewhere" / "DATA" / "mine" / "labeled.txt")
    assert len(read_list(C.train_source, C.dataset_path)) == 8 and not (folder / "DATA").exists()


@pytest.mark.parametrize("bare", [0, 1])
def test_too_few_images_without_masks_are_refused_before_anything_is_written(folder: Path, bare: int):
    for i in range(MASKED + bare, MASKED + BARE):
        next((folder / "photos").rglob(f"p{i}.jpg")).unlink()
    with pytest.raises(UserError, match=f"photos: {bare} images without masks, but training needs at least 2"):
        begin(folder)
    assert not (folder / "DATA").exists() and not (folder / "exp_mine").exists()


def test_two_images_without_masks_make_a_batch_that_trains(folder: Path):
    for i in range(MASKED + 2, MASKED + BARE):
        next((folder / "photos").rglob(f"p{i}.jpg")).unlink()
    begin(folder)
    C = load_config(folder / "exp_mine")
    assert C.batch_size == 2
    check_shares(C)


def test_refusals(folder: Path):
    with pytest.raises(UserError, match="lower-case letters"):
        begin(folder, name="My Data")
    with pytest.raises(UserError, match=r"p0\d\.png: contains 3, but --classes has 2 names, for 0 to 1"):
        begin(folder, "--classes", "a,b")
    with pytest.raises(UserError, match="leaves 1 of 10"):
        begin(folder, "--val", "0.9")
    for share in ("0", "1", "-1", "nan"):
        with pytest.raises(UserError, match=f"--val {share}: must lie between 0 and 1"):
            begin(folder, "--val", share)
    with pytest.raises(UserError, match="no such folder"):
        main(["mine", "--images", str(folder / "nowhere"), "--masks", str(folder / "masks"), "--root", str(folder)])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        main(["mine", "--images", str(folder / "nowhere"), "--masks", str(folder / "nowhere"), "--root", str(folder)])
    with pytest.raises(UserError, match="masks into a separate folder"):
        main(["mine", "--images", str(folder), "--masks", str(folder), "--root", str(folder)])
    stray = write_palette_label(folder / "masks" / "stray.png", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(UserError, match=r"stray\.png: fits no image"):
        begin(folder)
    stray.unlink()
    write_image(folder / "masks" / "p00.png", np.zeros((70, 90, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"mode RGB; docs/own-dataset\.md"):
        begin(folder)
    write_palette_label(folder / "masks" / "p00.png", np.zeros((9, 9), dtype=np.uint8))
    with pytest.raises(UserError, match="9x9 pixels"):
        begin(folder)
    assert not (folder / "exp_mine").exists()
    (folder / "masks" / "p00.png").unlink()
    begin(folder)
    with pytest.raises(UserError, match="already exists; add --update for new images and masks, or choose another"):
        begin(folder, name="exp_mine/")


def test_masks_of_one_class_are_refused(tmp_path: Path):
    for i in range(4):
        write_image(tmp_path / "photos" / f"{i}.png", np.zeros((40, 40, 3), dtype=np.uint8))
        write_palette_label(tmp_path / "masks" / f"{i}.png", np.full((40, 40), 255 * (i % 2), dtype=np.uint8))
    with pytest.raises(UserError, match=r"contain only class 0 \(255 means unknown\)"):
        begin(tmp_path)


def test_the_lists_of_another_data_set_are_not_replaced(folder: Path):
    other = folder / "DATA" / "mine" / "val.txt"
    other.parent.mkdir(parents=True)
    other.write_text("a\n")
    with pytest.raises(UserError, match=r"of another data set|to another data set"):
        begin(folder)
    with pytest.raises(UserError, match=r"of another data set|to another data set"):
        begin(folder, name="camvid")
    assert other.read_text() == "a\n"


@pytest.mark.parametrize(("module", "interrupted"), [(own_lists, "write_lists"), (new_experiment, "write_folder")])
def test_an_interrupted_creation_can_be_repeated(folder: Path, monkeypatch, module, interrupted: str):
    def interrupt(*args) -> None:
        if interrupted == "write_lists":
            write_lists(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, interrupted, interrupt)
        with pytest.raises(KeyboardInterrupt):
            begin(folder)
    assert not (folder / "exp_mine").exists()
    begin(folder)


def test_two_images_of_one_mask_are_refused(folder: Path):
    image = next((folder / "photos").rglob("p01.*"))
    Image.open(image).save(image.with_suffix(".bmp"))
    with pytest.raises(UserError, match=r"p01.*\.png: fits two images named .*p01; move one of them away"):
        begin(folder)


@pytest.mark.parametrize("white, rest", [(range(10), ()), (range(5), range(5, 10))])
def test_masks_of_black_and_white_are_refused(folder: Path, white, rest):
    for number, path in enumerate(sorted((folder / "masks").rglob("*.png"))):
        seen = read_label(path, 4) == 1
        write_palette_label(path, (seen * (255 if number in white else 1)).astype(np.uint8))
    with pytest.raises(UserError, match="255 means unknown"):
        begin(folder, "--classes", "background,leaf")


def test_training_keeps_every_class_and_one_small_image_changes_no_setting(folder: Path):
    begin(folder, name="usual")
    usual = load_config(folder / "exp_usual")
    rare = read_list(usual.eval_source, usual.dataset_path)[1]
    label = read_label(rare.label, 5)
    write_palette_label(rare.label, np.where(label == 3, 4, label))
    begin(folder, name="rare")
    C = load_config(folder / "exp_rare")
    train, val = (read_list(source, C.dataset_path) for source in (C.train_source, C.eval_source))
    assert rare.image in [sample.image for sample in train] and len(val) == 2
    write_image(rare.image, np.zeros((20, 15, 3), np.uint8))
    write_palette_label(rare.label, np.zeros((20, 15), np.uint8))
    begin(folder, name="small")
    C = load_config(folder / "exp_small")
    assert C.image_height == usual.image_height and abs(C.eval_crop_size - usual.eval_crop_size) < 2


def test_validation_images_are_spread_and_the_window_fits(folder: Path):
    begin(folder, "--cpu", "--val", "0.3", name="small")  # ordered by path: deep/p00, deep/p05, p01, ...
    C = load_config(folder / "exp_small")
    assert [sample.name for sample in read_list(C.eval_source, C.dataset_path)] == ["p05", "p04", "p08"]
    assert C.eval_crop_size == 94, "the usual longest side"
    assert 200 <= C.nepochs * C.niters_per_epoch < 300, "few images are seen more often"
    for path in [*(folder / "photos").rglob("*.jpg"), *(folder / "masks").rglob("*.png")]:
        pixels = read_label(path, 256) if path.suffix == ".png" else np.zeros((70, 90, 3), np.uint8)
        big = np.resize(pixels, (300, 400, *pixels.shape[2:]))
        write_palette_label(path, big) if path.suffix == ".png" else write_image(path, big)
    begin(folder, "--cpu", name="large")
    begin(folder, name="for_a_gpu")
    assert (C.eval_scale_array, C.train_scale_array) == ((1,), (0.7, 1, 1.3)), "small images stay as they are"
    C = load_config(folder / "exp_large")
    assert (C.eval_crop_size, C.eval_scale_array, C.train_scale_array) == (240, (0.6,), (0.42, 0.6, 0.78))
    C = load_config(folder / "exp_for_a_gpu")
    assert (C.eval_crop_size, C.image_height, C.eval_scale_array) == (400, 288, (1,))


def names_of(C: Settings) -> list[list[str]]:
    """Names of the images in the three lists of an experiment."""
    labeled = [read_list(source, C.dataset_path) for source in (C.train_source, C.eval_source)]
    return [[s.name for s in found] for found in (*labeled, read_list(C.unsup_source, C.dataset_path, labeled=False))]


def test_an_update_adds_images_and_masks_and_keeps_the_rest(folder: Path, capsys: pytest.CaptureFixture):
    begin(folder)
    config = folder / "exp_mine" / "config.py"
    config.write_text(config.read_text() + "C.lr = 0.5\n")
    C = load_config(config)
    train, val, unlabeled = names_of(C)
    begin(folder, "--update")
    assert names_of(C) == [train, val, unlabeled]
    assert "0 new" in capsys.readouterr().out

    write_image(folder / "photos" / "new.jpg", np.zeros((70, 90, 3), np.uint8))
    for name, width in (("p11", 101), ("p12", 102)):
        write_palette_label(folder / "masks" / f"{name}.png", np.ones((70, width), np.uint8))
    next((folder / "masks").rglob(f"{train[0]}.png")).unlink()
    begin(folder, "--update")
    assert names_of(C) == [[*train[1:], "p11", "p12"], val, ["p10", "p15", "p13", "p14", train[0], "new"]]
    changed = C.updated(num_train_imgs=9, max_samples=9)
    assert load_config(config) == changed and C.lr == 0.5
    told = capsys.readouterr().out
    assert "9 training images with masks (2 new) and 6 without, 2 validation images" in told
    assert "config.py: C.num_train_imgs = 9, was 8" in told and "num_unsup_imgs" not in told
    assert "note: 1 image unlabelled now, as the masks are gone: " in told and "removed" not in told
    next((folder / "photos").rglob("new.jpg")).unlink()
    begin(folder, "--update")
    told = capsys.readouterr().out
    assert "note: 1 image removed, as the images are gone: " in told and "num_unsup_imgs = 5, was 6" in told
    write_image(folder / "photos" / "new.jpg", np.zeros((70, 90, 3), np.uint8))

    for kind, write, pixels in (("photos", write_image, (70, 90, 3)), ("masks", write_palette_label, (70, 90))):
        write(folder / "second" / kind / "more.png", np.zeros(pixels, np.uint8))
    main(["mine", *folders(folder / "second"), "--root", str(folder), "--update"])
    assert names_of(C)[0][-1] == "more", "images of other folders join them"
    for name in ("latest", names_of(C)[0][0]):  # an earlier image's mask does not become that of a namesake
        write_image(folder / "fourth" / f"{name}.png", np.zeros((70, 90, 3), np.uint8))
    write_palette_label(folder / "masks" / "latest.png", np.zeros((70, 90), np.uint8))
    main(
        [
            "mine",
            "--images",
            str(folder / "fourth"),
            "--masks",
            str(folder / "masks"),
            "--root",
            str(folder),
            "--update",
        ]
    )
    assert names_of(C)[0][-1] == "latest", "a mask may lie among those of other images"
    assert names_of(C)[2][-1] == names_of(C)[0][0]
    write_image(folder / "third" / "bare.png", np.zeros((70, 90, 3), np.uint8))
    main(["mine", "--images", str(folder / "third"), "--root", str(folder), "--update"])
    assert names_of(C)[2][-1] == "bare" and names_of(C)[1] == val


def test_an_update_finds_lists_behind_links_and_labels_that_begin_at_one(folder: Path, capsys: pytest.CaptureFixture):
    (folder / "elsewhere").mkdir()
    (folder / "DATA").symlink_to(folder / "elsewhere")
    begin(folder)
    config = folder / "exp_mine" / "config.py"
    config.write_text(config.read_text() + "C.reduce_zero_label = True\nC.num_classes, C.class_names = 1 + 3, []\n")
    for path in (folder / "masks").rglob("*.png"):
        write_palette_label(path, np.where(read_label(path, 4) > 3, 0, read_label(path, 4) + 1).astype(np.uint8))
    write_palette_label(folder / "masks" / "p11.png", np.full((70, 101), 4, np.uint8))
    begin(folder, "--update")
    assert "9 training images with masks (1 new)" in capsys.readouterr().out
    write_palette_label(folder / "masks" / "p12.png", np.full((70, 102), 255, np.uint8))
    with pytest.raises(UserError, match=r"p12\.png: label value 255 is neither"):
        begin(folder, "--update")


def test_an_update_tells_what_it_changes(folder: Path, capsys: pytest.CaptureFixture):
    begin(folder)
    config = folder / "exp_mine" / "config.py"
    config.write_text(config.read_text().replace("C.num_train_imgs = 8", "C.num_train_imgs = 8  # mine"))
    C = load_config(config)
    train, val, unlabeled = names_of(C)
    held = read_list(C.eval_source, C.dataset_path)[0]
    with open(C.unsup_source, "a") as file:
        file.write(f"{held.image}\n")
    corrected = folder / "corrected"
    for name in (train[0], "p11"):
        (image,) = (folder / "photos").rglob(f"{name}.jpg")
        write_palette_label(corrected / f"{name}.png", np.ones(Image.open(image).size[::-1], np.uint8))
    main(["mine", "--images", str(folder / "photos"), "--masks", str(corrected), "--root", str(folder), "--update"])
    told = capsys.readouterr().out
    assert f"note: 1 image removed, as they are for validation: {held.image}" in told
    assert "note: 1 image with another mask now: " in told and f"{train[0]}.jpg" in told
    assert "C.num_train_imgs = 9, was 8" in told and "gone" not in told
    assert names_of(C) == [[*train, "p11"], val, [name for name in unlabeled if name != "p11"]]
    assert read_list(C.train_source, C.dataset_path)[0].label == corrected / f"{train[0]}.png"
    assert "C.num_train_imgs = 9  # mine\n" in config.read_text()

    config.write_text(config.read_text().replace("C.num_train_imgs = 9", "C.num_train_imgs = 4 + 4"))
    begin(folder, "--update")
    assert "C.num_train_imgs = 8 sets the length of an epoch; there are 9 now" in capsys.readouterr().out
    inside = folder / "photos" / "masks"
    (folder / "masks").rename(inside)
    (folder / "masks").symlink_to(inside)
    main(["mine", "--images", str(folder / "photos"), "--root", str(folder), "--update"])
    assert not [name for name in names_of(C)[2] if "masks" in name], "masks are no images"


def test_an_update_is_refused_without_the_validation_images(folder: Path):
    """Under other names they would become training images."""
    begin(folder)
    C = load_config(folder / "exp_mine")
    before = names_of(C)
    (folder / "photos" / "s").mkdir()
    for path in (folder / "photos").glob("*.jpg"):
        path.rename(folder / "photos" / "s" / path.name)
    with pytest.raises(UserError, match=r"p0\d\.jpg: no such file, but .*val\.txt names it"):
        begin(folder, "--update")
    for path in (folder / "photos" / "s").glob("*.jpg"):
        path.rename(folder / "photos" / path.name)
    assert names_of(C) == before
    with pytest.raises(UserError, match="--masks: is needed for a new experiment"):
        main(["other", "--images", str(folder / "photos"), "--root", str(folder)])


def folders(folder: Path) -> list[str]:
    return ["--images", str(folder / "photos"), "--masks", str(folder / "masks")]


def test_an_update_is_refused_before_anything_changes(folder: Path):
    with pytest.raises(UserError, match=r"exp_mine: no such experiment; leave out --update"):
        begin(folder, "--update")
    begin(folder)
    C = load_config(folder / "exp_mine")
    before = names_of(C)
    for option in (["--classes", "a,b,c,d"], ["--val", "0"], ["--cpu"]):
        with pytest.raises(UserError, match=f"{option[0]}: is for new experiments; .*config.py"):
            begin(folder, "--update", *option)
    write_palette_label(folder / "masks" / "p11.png", np.full((70, 101), 4, np.uint8))
    with pytest.raises(UserError, match=r"p11\.png: label value 4 is neither a class \(C\.num_classes = 4"):
        begin(folder, "--update")
    write_palette_label(folder / "masks" / "p11.png", np.zeros((70, 101), np.uint8))
    for number in range(12, 16):
        next((folder / "photos").rglob(f"p{number}.jpg")).unlink()
    with pytest.raises(UserError, match="1 images without masks, but training needs at least 2"):
        begin(folder, "--update")
    for number in range(12, 16):
        write_image(folder / "photos" / f"p{number}.jpg", np.zeros((70, 90, 3), np.uint8))
    held = {sample.label.name for sample in read_list(C.eval_source, C.dataset_path)}
    masks = [path for path in sorted((folder / "masks").glob("*.png")) if path.name not in held]
    for path in masks[1:]:
        path.rename(path.with_suffix(".away"))
    with pytest.raises(UserError, match="1 training images have masks; training needs 2"):
        begin(folder, "--update")
    for path in masks[1:]:
        path.with_suffix(".away").rename(path)
    assert names_of(C) == before
    config = folder / "exp_mine" / "config.py"
    config.write_text(config.read_text() + f"C.unsup_source = {str(folder / 'photos')!r}\n")
    with pytest.raises(UserError, match=r"C\.unsup_source = .*photos: is a folder; put new images there"):
        begin(folder, "--update")
    config.write_text(config.read_text() + f"C.unsup_source = {str(folder / 'list.txt')!r}\n")
    with pytest.raises(UserError, match=r"C\.unsup_source = .*list\.txt: is not in .*DATA/mine; --update changes only"):
        begin(folder, "--update")


def test_an_update_names_copies_of_validation_images(folder: Path, capsys: pytest.CaptureFixture):
    begin(folder)
    C = load_config(folder / "exp_mine" / "config.py")
    held = read_list(C.eval_source, C.dataset_path)[0].image
    shutil.copy(held, folder / "photos" / "copied.jpg")
    begin(folder, "--update")
    assert "note: " in (told := capsys.readouterr().out) and "copied.jpg: is a copy of a validation image" in told


def test_an_update_checks_all_masks_again(folder: Path):
    begin(folder)
    path = read_list(load_config(folder / "exp_mine").train_source, folder)[0].label
    label = read_label(path, 4)
    write_palette_label(path, np.full_like(label, 7))
    with pytest.raises(UserError, match=rf"{path.name}: label value 7 is neither a class"):
        begin(folder, "--update")
    write_palette_label(path, label[1:])
    with pytest.raises(UserError, match=rf"{path.name}: .* pixels, but its image"):
        begin(folder, "--update")


def test_updates_at_one_time_lose_nothing(folder: Path):
    begin(folder)
    script = "import sys; from furnace.tools.new_experiment import main; main(sys.argv[1:])"
    processes = []
    for name in ("left", "right"):
        for number in range(3):
            write_image(folder / name / f"{name}{number}.png", np.full((70, 90, 3), number, np.uint8))
        words = ["mine", "--images", str(folder / name), "--root", str(folder), "--update"]
        processes.append(subprocess.Popen([sys.executable, "-c", script, *words], cwd=REPOSITORY))
    assert [process.wait() for process in processes] == [0, 0]
    added = {name for name in names_of(load_config(folder / "exp_mine"))[2] if name.startswith(("left", "right"))}
    assert len(added) == 6
