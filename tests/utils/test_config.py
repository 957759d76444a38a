"""Settings: wrong values are named, overrides take precedence, and values computed in config.py follow them."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from furnace.engine.distributed import CPU
from furnace.engine.trainer import Trainer
from furnace.methods.settings import all_settings, load_config
from furnace.utils.config import ENVIRONMENT, FOREIGN, parse_overrides
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY

VOC, CITY = REPOSITORY / "exp_voc", REPOSITORY / "exp_city"


def names_with(name: str) -> list[str]:
    """Names for the classes of `VOC`; the first one is `name`."""
    return [name, *(f"class {i}" for i in range(1, 21))]


@pytest.fixture
def write_config(tmp_path: Path):
    """`write_config(more)` writes an experiment folder: the lines of exp_voc's config.py, then `more`."""

    def write(more: str = "", text: str | None = None) -> Path:
        text = (VOC / "config.py").read_text(encoding="utf-8") if text is None else text
        (tmp_path / "exp_own").mkdir(exist_ok=True)
        (tmp_path / "exp_own" / "config.py").write_text(f"{text}\n{more}\n", encoding="utf-8")
        return tmp_path / "exp_own"

    return write


@pytest.mark.parametrize(
    "folder, ratio, nepochs, labeled, all_images, batch_size",
    [
        (VOC, 16, 32, 661, 10582, 8),
        (VOC, 8, 34, 1322, 10582, 8),
        (VOC, 4, 40, 2645, 10582, 8),
        (VOC, 2, 60, 5291, 10582, 8),
        (CITY, 16, 128, 185, 2975, 16),
        (CITY, 8, 137, 371, 2975, 16),
        (CITY, 4, 160, 743, 2975, 16),
        (CITY, 2, 240, 1487, 2975, 16),
    ],
)
def test_everything_derived_follows_an_overridden_labeled_ratio(
    folder, ratio, nepochs, labeled, all_images, batch_size
):
    C = load_config(folder, {"labeled_ratio": str(ratio)})
    assert (C.nepochs, C.batch_size) == (nepochs, batch_size)
    assert (C.num_train_imgs, C.num_unsup_imgs) == (labeled, all_images - labeled)
    assert C.niters_per_epoch == (all_images - labeled) // batch_size
    assert C.train_source.endswith(f"train_aug_labeled_1-{ratio}.txt")
    assert C.unsup_source.endswith(f"train_aug_unlabeled_1-{ratio}.txt")


@pytest.mark.parametrize(
    "folder, all_images, labeled",
    [
        ("exp_ade20k", 20210, {64: 316, 32: 631, 16: 1263, 8: 2526, 4: 5052, 2: 10105}),
        ("exp_coco", 118287, {512: 232, 256: 463, 128: 925, 64: 1849, 32: 3697}),
    ],
)
def test_an_epoch_is_as_long_as_the_unlabelled_lists_of_unimatch(folder, all_images, labeled):
    for ratio, count in labeled.items():
        C = load_config(REPOSITORY / folder, {"labeled_ratio": str(ratio)})
        assert C.niters_per_epoch == (all_images - count) // C.batch_size
        assert C.train_source.endswith(f"subset_train/train_labeled_1-{ratio}.txt")
        assert C.unsup_source.endswith(f"subset_train/train_unlabeled_1-{ratio}.txt")


@pytest.mark.parametrize(
    "folder, published",
    [
        (VOC, {"lr": 0.005, "unsup_weight": 1, "ohem": False, "image_height": 512, "niters_per_epoch": 1157}),
        (CITY, {"lr": 0.01, "unsup_weight": 5, "ohem": True, "image_height": 800, "niters_per_epoch": 162}),
    ],
    ids=["voc", "city"],
)
def test_settings_are_those_of_the_published_recipe(folder, published):
    C = load_config(folder)
    both = {
        "backbone": "resnet50", "lr_power": 0.9, "momentum": 0.9, "weight_decay": 1e-4, "seed": 12345,
        "snapshot_iter": 2, "train_scale_array": (0.5, 0.75, 1, 1.5, 1.75, 2.0), "eval_flip": False,
        "eval_scale_array": (1,), "eval_stride_rate": 2 / 3, "eval_crop_size": published["image_height"],
        "image_width": published["image_height"],
        "image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225), "bn_eps": 1e-5, "bn_momentum": 0.1,
        "cutmix_mask_prop_range": (0.25, 0.5), "cutmix_boxmask_n_boxes": 3, "ohem_thresh": 0.7, "ohem_min_kept": 50000,
    }  # fmt: skip
    assert {name: getattr(C, name) for name in (both | published)} == both | published


def test_config_py_does_not_change_an_overridden_value():
    C = load_config(VOC, {"nepochs": "5", "labeled_ratio": "16"})
    assert C.nepochs == 5
    assert load_config(VOC).nepochs == 34, "overrides must not outlive the call"


def test_paths_follow_an_overridden_volna(tmp_path):
    C = load_config(VOC, {"volna": str(tmp_path)})
    for path in (C.dataset_path, C.train_source, C.eval_source, C.pretrained_model):
        assert path.startswith(f"{tmp_path}/DATA/")
    assert C.log_dir == str(REPOSITORY / "log" / "exp_voc")


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("batch_size", "4", 4),
        ("lr", "1e-3", 0.001),
        ("ohem", "true", True),
        ("debug", "0", False),
        ("backbone", "resnet101", "resnet101"),
        ("pretrained_model", "none", None),
        ("pretrained_model", "None", None),
        ("class_weight", "none", None),
        ("train_scale_array", "0.5, 1", (0.5, 1)),
        ("train_scale_array", "[0.5,1]", (0.5, 1)),
        ("train_scale_array", np.array([0.5, 1]), (0.5, 1)),
        ("eval_scale_array", "1", (1,)),
        ("log_dir", Path("/a/b"), "/a/b"),
        ("lr", np.float32(0.5), 0.5),
    ],
)
def test_overrides_are_text_or_values(name, text, value):
    assert getattr(load_config(VOC, {name: text}), name) == value


@pytest.mark.parametrize(
    "name, value",
    [
        ("batch_size", "0"), ("batch_size", "-1"), ("batch_size", "2.5"), ("batch_size", "many"), ("batch_size", ""),
        ("labeled_ratio", "0"), ("num_classes", "256"), ("num_workers", "-1"), ("seed", "-1"), ("nepochs", "1e9x"),
        ("lr", "0"), ("lr", "-0.1"), ("lr", "nan"), ("lr", "inf"), ("momentum", "1.1"), ("weight_decay", "-1"),
        ("unsup_weight", "-1"), ("unsup_weight", "nan"), ("ohem", "perhaps"), ("debug", "2"), ("ohem_thresh", "1.01"),
        ("method", "magic"), ("backbone", "resnet51"), ("eval_stride_rate", "0"), ("eval_stride_rate", "1.5"),
        ("train_scale_array", "0.5,x"), ("train_scale_array", "inf"), ("train_scale_array", ""),
        ("train_scale_array", "0,1"), ("eval_scale_array", "-1"), ("eval_scale_array", []),
        ("class_weight", "1,2"), ("class_weight", "nan"), ("class_names", "cat,dog"), ("bn_eps", "0"),
        ("class_names", names_with("a\tb")), ("class_names", names_with("a\nb")), 
        ("class_names", names_with("\x1b[2J")),
        ("class_names", names_with("a\u2028b")), ("class_names", names_with(" ")), ("class_names", names_with("")),
        ("class_names", names_with("\udc80")), ("class_names", names_with("class 1")),
        ("class_names", names_with("n" * 101)), ("class_names", ",".join(names_with("a\nb"))),
        ("image_mean", "0.5"), ("image_mean", "nan,nan,nan"), ("image_std", "0.2,0.2,0"), ("image_std", "1,1,1,1"),
        ("cutmix_mask_prop_range", "0.5,0.25"), ("cutmix_mask_prop_range", "0.5"), ("cutmix_mask_prop_range", "0,1"),
        ("cutmix_mask_prop_range", "0.5,1.5"), ("cutmix_boxmask_n_boxes", "0"),
    ],
)  # fmt: skip
def test_wrong_value_is_refused_with_its_name(name, value):
    with pytest.raises(UserError, match=rf"^-o {name}=") as caught:
        load_config(VOC, {name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["US$5_$10", "_a", "</script>", "50 %", "{x}", "a\\b", "背景", "می\u200cشود", "n" * 100]
)
def test_class_names_of_any_script_are_accepted(name):
    assert load_config(VOC, {"class_names": names_with(name)}).class_names[0] == name


def test_an_epoch_without_an_iteration_is_refused():
    with pytest.raises(UserError, match="niters_per_epoch = 0"):
        load_config(VOC, {"batch_size": "20000"})


@pytest.mark.parametrize(
    "name, hint",
    [
        ("batch_siz", "did you mean batch_size?"),
        ("learning_rate", r"did you mean lr\?"),
        ("learning_rat", r"did you mean lr\?"),
        ("cps_weight", r"did you mean unsup_weight\?"),
        ("zzz", "--settings lists the known ones"),
    ],
)
def test_unknown_setting_is_refused_with_a_hint(name, hint, write_config):
    with pytest.raises(UserError, match=rf"^-o {name}=1: unknown setting '{name}'; .*({hint})"):
        load_config(VOC, {name: "1"})
    with pytest.raises(UserError, match=rf"exp_own/config\.py, line \d+: unknown setting '{name}'; .*({hint})"):
        load_config(write_config(f"C.{name} = 1"))


def test_unknown_settings_are_told_in_the_order_of_the_file(write_config):
    with pytest.raises(UserError) as error:
        load_config(write_config("".join(f"C.{name}{name} = 1\n" for name in "zyxwv")))
    assert re.findall(r"unknown setting '(\w)", str(error.value)) == list("zyxwv")


def test_wrong_or_empty_environment_variables(monkeypatch):
    monkeypatch.setenv("batch_size", "")
    assert load_config(VOC).batch_size == 8
    monkeypatch.setenv("batch_size", "eight")
    with pytest.raises(UserError, match=r"^environment variable batch_size=eight: "):
        load_config(VOC)


def test_debug_shortens_the_run_but_never_lengthens_it():
    C = load_config(VOC, {"debug": "1"})
    assert (C.nepochs, C.niters_per_epoch) == (2, 10)
    C = load_config(VOC, {"debug": "1", "nepochs": "1", "niters_per_epoch": "3"})
    assert (C.nepochs, C.niters_per_epoch) == (1, 3)


def test_folder_without_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.py: no such file; name an experiment folder"):
        load_config(tmp_path)


def test_modules_beside_config_are_imported_by_every_command(tmp_path):
    (tmp_path / "exp_own").mkdir()
    (tmp_path / "exp_own" / "own_rates.py").write_text("lr = 0.75\n")
    text = (VOC / "config.py").read_text() + "\nimport own_rates\nC.lr = own_rates.lr\n"
    (tmp_path / "exp_own" / "config.py").write_text(text)
    before = list(sys.path)
    assert load_config(tmp_path / "exp_own").lr == 0.75
    assert sys.path == before


def test_an_experiment_of_the_checkout_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("exp_voc").this_dir == "exp_voc"
    (tmp_path / "exp_voc").mkdir()
    (tmp_path / "exp_voc" / "config.py").write_text((VOC / "config.py").read_text() + "\nC.lr = 0.75\n")
    assert load_config("exp_voc").lr == 0.75, "that of the working directory comes first"


def test_another_file_of_the_folder_is_a_separate_experiment(tmp_path):
    for name, lr in (("config.py", "0.5"), ("config_modern.py", "0.25")):
        text = (VOC / "config.py").read_text().replace("C.lr = 0.005", f"C.lr = {lr}")
        (tmp_path / "exp_own").mkdir(exist_ok=True)
        (tmp_path / "exp_own" / name).write_text(text)
    own, modern = load_config(tmp_path / "exp_own"), load_config(tmp_path / "exp_own" / "config_modern.py")
    assert (own.lr, modern.lr) == (0.5, 0.25)
    assert [Path(C.log_dir).name for C in (own, modern)] == ["exp_own", "exp_own_modern"]
    with pytest.raises(UserError, match=r"config_old\.py: no such file; there are config\.py, config_modern\.py$"):
        load_config(tmp_path / "exp_own" / "config_old.py")


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("C = 3", ": defines no C = EasyDict"),
        ("", ": defines no C = EasyDict"),
        ("C = (", ", line 1: SyntaxError: '\\(' was never closed$"),
        ("import no_such_module", ", line 1: ModuleNotFoundError: No module named 'no_such_module'$"),
        ("raise ValueError('mine')", ", line 1: ValueError: mine$"),
        ("\n\nC = D", ", line 3: NameError: name 'D' is not defined$"),
    ],
)
def test_a_faulty_config_file_is_explained(write_config, text, complaint):
    with pytest.raises(UserError, match=rf"exp_own/config\.py{complaint}"):
        load_config(write_config(text=text))


def test_folders_are_those_of_the_config_file_unless_it_names_others(write_config, tmp_path):
    C = load_config(write_config())
    assert (C.this_dir, C.root_dir, C.volna) == ("exp_own", str(tmp_path), str(tmp_path))
    assert C.snapshot_dir == str(tmp_path / "log" / "exp_own" / "snapshot")
    assert load_config(write_config(), {"log_dir": "/elsewhere"}).snapshot_dir == "/elsewhere/snapshot"
    assert load_config(write_config("C.root_dir = '/a'")).log_dir == "/a/log/exp_own"


def test_all_errors_are_reported_at_once(write_config):
    folder = write_config("C.lr = 'fast'\nC.nepoch = 3\nC.image_mean = [1]\ndel C['num_classes']")
    begin = len((folder / "config.py").read_text().rstrip().splitlines()) - 3
    with pytest.raises(UserError) as caught:
        load_config(folder, {"batch_size": "0", "zzz": "1"})
    lines = sorted(line.removeprefix(f"{folder}/config.py") for line in str(caught.value).splitlines())
    expected = [
        f", line {begin}: lr = 'fast': is not a number (learning rate",
        f", line {begin + 1}: unknown setting 'nepoch'; did you mean nepochs?",
        f", line {begin + 2}: image_mean = [1]: must be three numbers",
        "-o batch_size=0: must be greater than 0 (labelled images",
        "-o zzz=1: unknown setting 'zzz'; --settings lists the known ones",
        ": num_classes not set; assign C.num_classes (classes, without",
    ]
    assert len(lines) == len(expected)
    assert all(line.startswith(begins) for line, begins in zip(lines, expected, strict=True)), lines


def test_an_easydict_before_C_is_refused(write_config):
    text = (VOC / "config.py").read_text().replace("C = config", "D = edict(a=1)\nC = config")
    with pytest.raises(UserError, match=r"config\.py: makes another EasyDict before C; make C first"):
        load_config(write_config(text=text), {"labeled_ratio": "8"})


@pytest.mark.parametrize("name", all_settings().model_fields)
def test_every_setting_refuses_invalid_values(name):
    with pytest.raises(UserError, match=rf"^-o {name}=<object .*{all_settings().model_fields[name].description[:10]}"):
        load_config(VOC, {name: object()})


def test_checked_settings_do_not_change_and_a_copy_is_checked():
    C = load_config(VOC)
    with pytest.raises(ValidationError, match="frozen"):
        C.lr = 1.0
    assert (C.updated(lr="0.5").lr, C.lr) == (0.5, 0.005)
    with pytest.raises(UserError, match="class_weight, num_classes: must be None or one weight for each class"):
        C.updated(class_weight=[1, 2])


def test_an_unknown_name_in_a_copy_is_one_line_with_the_closest_setting():
    with pytest.raises(UserError) as caught:
        load_config(VOC).updated(eval_scales=(1,))
    assert str(caught.value) == "unknown setting 'eval_scales'; did you mean eval_scale_array?"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("log_dir", "x" * 300, "is not a path"),
        ("train_source", "/a/" + "é" * 128, "is not a path"),
        ("cache", "a\0b", "is not a path"),
        ("cache", "true", "-o cache=true: must be off, ram or a folder"),
        ("log_dir", "\ud800" * 100, "is not a path"),
        ("eval_metrics", "", "must name at least one metric"),
        ("lr", "1e300", "must be at most"),
        ("ohem_min_kept", str(10**20), "must be at most"),
        ("student_views", "3", "must be at most 2"),
    ],
)
def test_values_that_would_fail_later_are_refused(setting: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(VOC, {setting: value})


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("none", "off"),
        (None, "off"),
        ("False", "off"),
        (0, "off"),
        ("RAM", "ram"),
        ("Off", "off"),
        ("/a/Ram", "/a/Ram"),
    ],
)
def test_words_for_no_cache_are_no_folders(value, meaning: str) -> None:
    assert load_config(VOC, {"cache": value}).cache == meaning


def test_numbers_of_views_are_given_as_text() -> None:
    assert load_config(VOC, {"student_views": "2", "strong": "true"}).student_views == 2


def test_paths_separated_by_commas_are_measured_each() -> None:
    paths = ",".join(f"{letter * 100}.pth" for letter in "abc")
    assert load_config(VOC, {"warm_start": paths}).warm_start == paths


def test_a_method_that_is_no_text_is_one_line(write_config) -> None:
    with pytest.raises(UserError, match=r"config\.py, line \d+: method = \['cpcl'\]: "):
        load_config(write_config("C.method = ['cpcl']"))


# The environment variables of the published files.
VARIABLES = {
    "volna": ("/a", "volna", "/a"),
    "snapshot_dir": ("/a", "snapshot_dir", "/a/snapshot"),
    "batch_size": ("3", "batch_size", 3),
    "learning_rate": ("0.25", "lr", 0.25),
    "snapshot_iter": ("3", "snapshot_iter", 3),
    "debug": ("yes please", "debug", True),
}


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_environment_variables_set_their_setting_and_overrides_win(variable, monkeypatch):
    assert set(ENVIRONMENT) == set(VARIABLES)
    text, name, value = VARIABLES[variable]
    plain = getattr(load_config(VOC), name)
    monkeypatch.setenv(variable, text)
    assert getattr(load_config(VOC), name) == value != plain
    assert getattr(load_config(VOC, {name: str(plain)}), name) == plain


# In the form of the published files, with the names that they assign and the values of the recipes.
PUBLISHED = """
import os
import os.path as osp
import sys
import numpy as np
from easydict import EasyDict as edict

C = edict()
config = C
cfg = C

C.seed = 12345
C.repo_name = 'SomeOtherName'
C.abs_dir = osp.realpath(".")
C.this_dir = C.abs_dir.split(osp.sep)[-1]
C.root_dir = C.abs_dir[:C.abs_dir.index(C.repo_name) + len(C.repo_name)]
C.volna = os.environ.get('volna', C.root_dir)
C.log_dir = osp.abspath(osp.join(C.root_dir, 'log', C.this_dir))
C.log_dir_link = osp.join(C.abs_dir, 'log')
C.snapshot_dir = osp.abspath(osp.join(C.log_dir, "snapshot"))
C.train_log_file = C.log_dir + '/log.log'
if os.getenv('snapshot_dir'):
    C.snapshot_dir = osp.join(os.environ['snapshot_dir'], "snapshot")
C.labeled_ratio = 8
C.dataset_path = osp.join(C.volna, 'DATA/{folder}')
C.img_root_folder = C.dataset_path
C.gt_root_folder = C.dataset_path
C.pretrained_model = osp.join(C.volna, 'DATA/pytorch-weight/{backbone}_v1c.pth')
lists = osp.join(C.dataset_path, "{lists}")
C.train_source = osp.join(lists, "train_aug_labeled_1-{{}}.txt".format(C.labeled_ratio))
C.unsup_source = osp.join(lists, "train_aug_unlabeled_1-{{}}.txt".format(C.labeled_ratio))
C.eval_source = osp.join(C.dataset_path, "val.txt")
sys.path.insert(0, osp.join(C.root_dir, 'furnace'))
C.num_classes = {classes}
C.background = -1
C.image_mean = np.array([0.485, 0.456, 0.406])
C.image_std = np.array([0.229, 0.224, 0.225])
C.image_height = C.image_width = {crop}
C.num_train_imgs = 10582 // C.labeled_ratio
C.num_unsup_imgs = 10582 - C.num_train_imgs
C.cutmix_mask_prop_range = (0.25, 0.5)
C.cutmix_boxmask_n_boxes = 3
C.unsup_weight = 1.5
C.lr = 0.005
if os.getenv('learning_rate'):
    C.lr = float(os.environ['learning_rate'])
C.momentum, C.lr_power, C.weight_decay = 0.9, 0.9, 1e-4
C.batch_size = 8
C.nepochs = 34
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = C.max_samples // C.batch_size
C.warm_up_epoch = 0
C.eval_crop_size = {crop}
C.eval_scale_array = [1]
C.device = 0
"""


def write_published(write_config, folder: str, backbone: str = "resnet50", lists: str = "subset", **values) -> Path:
    shape = {"classes": 21, "crop": 512} | values
    return write_config(text=PUBLISHED.format(folder=folder, backbone=backbone, lists=lists, **shape))


def test_a_published_file_of_voc_works_unchanged(write_config, tmp_path, monkeypatch):
    monkeypatch.setenv("learning_rate", "0.25")
    before = Path.cwd()
    C = load_config(write_published(write_config, "pascal_voc", "resnet101"), {"labeled_ratio": "4", "batch_size": "5"})
    assert Path.cwd() == before
    assert (C.dataset_name, C.train_folder, C.eval_folder) == ("pascal_voc", "train_aug", "val")
    assert (C.backbone, C.lr, C.num_train_imgs, C.niters_per_epoch) == ("resnet101", 0.25, 2645, 7937 // 5)
    assert C.train_source == f"{tmp_path}/DATA/pascal_voc/subset/train_aug_labeled_1-4.txt"
    assert (C.this_dir, C.root_dir, C.log_dir) == ("exp_own", str(tmp_path), f"{tmp_path}/log/exp_own")
    assert C.image_mean == (0.485, 0.456, 0.406) and not C.ohem
    (note,) = C.notes
    assert "backbone = resnet101" in note and "no meaning here: abs_dir, background, device, " in note


def test_a_published_file_of_cityscapes_has_the_published_loss(write_config):
    C = load_config(write_published(write_config, "city", classes=19, crop=800))
    ours = load_config(CITY)
    for name in ("dataset_name", "backbone", "ohem", "ohem_thresh", "ohem_min_kept", "class_weight"):
        assert getattr(C, name) == getattr(ours, name), name


def test_every_foreign_name_is_accepted_and_nothing_else(write_config):
    assert load_config(write_config("\n".join(f"C.{name} = 1" for name in FOREIGN))).notes
    with pytest.raises(UserError, match="unknown setting 'eval_itr'"):
        load_config(write_config("C.eval_itr = 1"))


def test_a_published_file_trains(write_config, voc_root, tmp_path):
    folder = write_published(write_config, "pascal_voc", lists="subset_train_aug", crop=32)
    small = {
        "pretrained_model": None, "backbone": "resnet18", "head_channels": 8, "nepochs": 1, "niters_per_epoch": 1,
        "batch_size": 2, "num_workers": 0, "volna": str(tmp_path),
    }  # fmt: skip
    C = load_config(folder, small)
    Trainer(C, CPU, console=Console(quiet=True)).fit()
    assert (Path(C.snapshot_dir) / "epoch-last.pth").is_file()


NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1)
VALUES = st.text(st.characters(codec="ascii", exclude_characters="\n"), min_size=0).map(str.strip)


@given(st.dictionaries(NAMES, VALUES))
def test_pairs_are_parsed_at_their_first_equals_sign(overrides):
    assert parse_overrides([f" {name} = {value} " for name, value in overrides.items()]) == overrides


@pytest.mark.parametrize("pair", ["lr", "=3", " =3", ""])
def test_pair_without_name_or_equals_sign_is_refused(pair):
    with pytest.raises(UserError, match=r"-o .*: not of the form key=value"):
        parse_overrides(["lr=1", pair])


@pytest.mark.parametrize("labeled", ["train_pseudoseg_labeled_1-8.txt", "pascal_voc/train.txt"])
def test_other_numbers_of_labels_of_voc_need_one_changed_line(write_config, labeled):
    lines = (VOC / "config.py").read_text(encoding="utf-8").splitlines()
    commented = [line for line in lines if line.startswith("# C.train_source")]
    (line,) = [line for line in commented if labeled.replace("1-8", "1-{C.labeled_ratio}").split("/")[-1] in line]
    C = load_config(write_config(text="\n".join(lines).replace(line, line.removeprefix("# "))))
    assert C.train_source.endswith(labeled)
    assert C.unsup_source.endswith("pascal_voc/train_aug.txt")
    assert C.niters_per_epoch == load_config(VOC).niters_per_epoch


@pytest.mark.parametrize(
    "name, value",
    [
        ("image_mean", "123.675,116.28,103.53"),
        ("image_std", "58.4,57.1,57.4"),
        ("class_weight", ",".join(["-1", *["1"] * 20])),
        ("class_weight", ",".join(["0"] * 21)),
        ("seed", str(2**64)),
    ],
)
def test_numbers_outside_of_their_range_are_refused(make_settings, name: str, value: str) -> None:
    with pytest.raises(UserError, match=name):
        make_settings(**{name: value})


def test_config_py_does_not_extend_an_overridden_list(write_config) -> None:
    folder = write_config("C.train_scale_array += [3.0]")
    assert load_config(folder, {"train_scale_array": "1"}).train_scale_array == (1,)


@pytest.mark.parametrize("text", ["['cat', 'dog']", '("cat", "dog")', "cat, dog"])
def test_quotes_around_names_are_removed(make_settings, text: str) -> None:
    assert make_settings(num_classes=2, class_names=text).class_names == ("cat", "dog")
