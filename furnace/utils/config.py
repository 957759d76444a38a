"""The settings of an experiment: every name that a config.py may assign, its type, its meaning and its default."""

import os
import runpy
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from furnace.utils.errors import UserError

# Environment variables of the published code, and the settings they stand for.
ENVIRONMENT = {
    "volna": "volna",
    "snapshot_dir": "snapshot_dir",
    "batch_size": "batch_size",
    "learning_rate": "lr",
    "snapshot_iter": "snapshot_iter",
    "debug": "debug",
}
_overrides: ContextVar[Mapping[str, Any]] = ContextVar("overrides", default=MappingProxyType({}))


def _split(value: Any) -> Any:
    return (
        [part.strip() for part in value.strip("[]() ").split(",") if part.strip()] if isinstance(value, str) else value
    )


def _none(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() in ("none", "") else value


Floats = Annotated[list[float], BeforeValidator(_split)]
OptionalFloats = Annotated[list[float] | None, BeforeValidator(_split), BeforeValidator(_none)]
Names = Annotated[list[str], BeforeValidator(_split)]
OptionalText = Annotated[str | None, BeforeValidator(_none)]
REQUIRED: Any = None  # default of the settings that config.py must assign
# Beyond these a number is a slip of the pen, which would cost all memory before it failed.
MAX_SIDE = 2**14
MAX_SCALE = 16
MAX_EPOCH_SAMPLES = 10**8
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Every setting. Those without a default must be assigned in config.py."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, protected_namespaces=())

    # Folders
    volna: str = Field(
        REQUIRED, description="folder that holds DATA; found by itself, or the environment variable volna"
    )
    root_dir: str = Field(REQUIRED, description="the checkout")
    this_dir: str = Field(REQUIRED, description="name of the experiment's folder")
    log_dir: str = Field(REQUIRED, description="logs, TensorBoard and results of this experiment")
    snapshot_dir: str = Field(REQUIRED, description="snapshots")

    # Data
    dataset_name: str = Field(REQUIRED, description="entry of the catalog, or a name of your own")
    dataset_path: str = Field(REQUIRED, description="the data set's folder; relative paths in lists begin here")
    train_folder: str = Field("", description="sub-folder with image/ and label/ for lists of image ids, training")
    eval_folder: str = Field("", description="the same for evaluation")
    train_source: str = Field(REQUIRED, description="list of labelled images")
    unsup_source: str = Field(REQUIRED, description="list of unlabelled images, or a folder of images")
    eval_source: str = Field(REQUIRED, description="list of validation images")
    test_source: OptionalText = Field(
        None, description="list or folder of images without labels, for eval.py --submit; None: eval_source"
    )
    test_folder: str = Field("test", description="sub-folder with image/ for a test_source of image ids")
    num_classes: PositiveInt = Field(REQUIRED, description="classes, without the ignored one", le=255)
    class_names: Names = Field([], description="names, if the catalog has none for dataset_name")
    image_mean: Floats = Field([0.485, 0.456, 0.406], description="RGB mean of the normalisation, in [0, 1]")
    image_std: Floats = Field([0.229, 0.224, 0.225], description="RGB standard deviation, likewise")
    image_height: PositiveInt = Field(REQUIRED, description="training crop", le=MAX_SIDE)
    image_width: PositiveInt = Field(REQUIRED, description="training crop", le=MAX_SIDE)
    train_scale_array: Floats = Field(
        [0.5, 0.75, 1, 1.5, 1.75, 2.0], description="scales, one drawn per training image"
    )
    num_train_imgs: PositiveInt = Field(REQUIRED, description="labelled images that the epoch's length counts with")
    num_unsup_imgs: NonNegativeInt = Field(
        REQUIRED, description="unlabelled images that the epoch's length counts with"
    )
    num_workers: NonNegativeInt = Field(
        4, description="loader processes per device; 0 loads in the training process", le=2**10
    )
    cache: str = Field(
        "off", min_length=1, description="decoded training images: off, ram, or a folder for them; see DATA/README.md"
    )

    # Method
    method: Literal["cpcl", "supervised", "cps", "mean_teacher"] = Field(
        "cpcl", description="training method; docs/methods.md describes each"
    )
    labeled_ratio: PositiveInt = Field(REQUIRED, description="1/labeled_ratio of the images are labelled")
    unsup_weight: float = Field(REQUIRED, description="weight of the unsupervised losses", ge=0)
    unsup_warmup: Share = Field(0, description="share of the run over which that weight rises linearly from 0")
    pseudo_labels: Literal["both", "intersection", "union"] = Field(
        "both", description="cpcl: both (intersection for branch 1, union for branch 2), or one for both branches"
    )
    union_choice: Literal["disagreement", "confidence"] = Field(
        "disagreement", description="cpcl, where branches differ: class in more disagreement, or surer branch"
    )
    reweight: bool = Field(True, description="cpcl: weight pseudo labels by their confidence")
    ema_decay: Share = Field(0.99, description="mean_teacher: share of the teacher that stays, each iteration")
    cutmix: bool = Field(True, description="mix unlabelled images; without it methods see the first stream alone")
    cutmix_mask_prop_range: Floats = Field(
        [0.25, 0.5], description="smallest and largest share of the area under boxes"
    )
    cutmix_boxmask_n_boxes: PositiveInt = Field(3, description="boxes per CutMix mask", le=1000)
    cutmix_boxmask_fixed_aspect_ratio: bool = Field(False, description="boxes of the image's aspect ratio")
    cutmix_boxmask_by_size: bool = Field(False, description="the range is of the sides, not of the area")
    cutmix_boxmask_outside_bounds: bool = Field(False, description="boxes may reach outside the image")
    cutmix_boxmask_no_invert: bool = Field(False, description="boxes are 0 in a mask of ones")
    ohem: bool = Field(False, description="online hard example mining in the supervised loss")
    ohem_thresh: Share = Field(0.7, description="OHEM: a pixel is hard below this probability of its class")
    ohem_min_kept: NonNegativeInt = Field(
        50000, description="OHEM: hard pixels to keep at least, per image of the batch"
    )
    class_weight: OptionalFloats = Field(None, description="weights of the classes in the supervised loss")

    # Network
    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = Field(
        REQUIRED, description="backbone"
    )
    pretrained_model: OptionalText = Field(REQUIRED, description="backbone weights: a file, 'imagenet', or None")
    head_channels: PositiveInt = Field(256, description="width of the DeepLabv3+ head; 256 in the paper", le=2**13)
    bn_eps: PositiveFloat = Field(1e-5, description="BatchNorm epsilon")
    bn_momentum: Share = Field(0.1, description="BatchNorm momentum")

    # Optimization
    seed: NonNegativeInt = Field(12345, description="everything random follows from it")
    lr: PositiveFloat = Field(REQUIRED, description="learning rate of both optimizers")
    lr_power: PositiveFloat = Field(0.9, description="power of the poly learning-rate policy")
    momentum: Share = Field(0.9, description="SGD momentum")
    weight_decay: float = Field(1e-4, description="SGD weight decay; none on norms and biases", ge=0)
    batch_size: PositiveInt = Field(
        REQUIRED, description="labelled images a step, and as many from each unlabelled stream", le=2**16
    )
    nepochs: PositiveInt = Field(REQUIRED, description="epochs", le=10**6)
    max_samples: PositiveInt = Field(REQUIRED, description="samples an epoch")
    niters_per_epoch: PositiveInt = Field(REQUIRED, description="iterations an epoch", le=10**7)

    # Speed
    amp: Literal["auto", "bf16", "fp16", "off"] = Field("auto", description="mixed precision; auto: bf16 on a GPU")
    compile: Literal["auto", "on", "off"] = Field("auto", description="torch.compile; auto: on a GPU")
    accumulate: PositiveInt = Field(
        1, description="parts of a batch that pass one after another, to save memory", le=2**16
    )
    sync_bn: bool = Field(True, description="BatchNorm over the batches of all GPUs")

    # Snapshots and logs
    snapshot_iter: PositiveInt = Field(2, description="epochs between snapshots, after the first sixth of the run")
    record_info_iter: PositiveInt = Field(20, description="iterations between TensorBoard records")
    image_iter: PositiveInt = Field(500, description="iterations between pictures of the pseudo labels")
    diagnose: bool = Field(
        False, description="compare pseudo labels with withheld labels of the unlabelled images, every image_iter"
    )
    display_iter: PositiveInt = Field(50, description="iterations between lines of the text log")
    debug: bool = Field(False, description="two epochs of at most ten iterations, to see that everything runs")

    # Interruptions and faults
    autosave_minutes: float = Field(
        10, description="minutes between autosaves, of which the last is kept, for -c auto; 0: none", ge=0
    )
    keep_snapshots: NonNegativeInt = Field(0, description="snapshots epoch-N.pth to keep, the latest; 0: all")
    on_nan: Literal["stop", "skip"] = Field("stop", description="when the loss or gradients of a batch are not finite")
    max_nan_skips: NonNegativeInt = Field(10, description="on_nan = skip: batches to skip in the whole run, then stop")
    on_bad_image: Literal["stop", "skip"] = Field(
        "stop", description="when an image or label can't be read: stop, or take the next one and report at the end"
    )

    # Evaluation
    eval_crop_size: PositiveInt = Field(REQUIRED, description="side of the sliding window", le=MAX_SIDE)
    eval_stride_rate: float = Field(2 / 3, description="stride of the window, as a share of its side", gt=0, le=1)
    eval_scale_array: Floats = Field([1], description="scales, whose scores are added")
    eval_batch_size: PositiveInt = Field(
        8, description="windows in one pass of the network, of several images", le=2**12
    )
    eval_flip: bool = Field(False, description="add the scores of the mirrored windows")


class Config(Settings):
    """`C` of an experiment's config.py: assign settings as attributes, in any plain Python.

    Values overridden for this run (`-o key=value`, environment variables) stay as they are when
    config.py assigns them, so that everything computed from them below follows.

    Args:
        file: `__file__` of the config.py.
    """

    def __init__(self, file: str):
        super().__init__()
        for name, value in _overrides.get().items():
            super().__setattr__(name, value)
        folder = Path(file).resolve().parent
        self.this_dir = folder.name
        self.volna = self.root_dir = str(folder.parent)
        self.log_dir = str(Path(self.root_dir) / "log" / self.this_dir)
        self.snapshot_dir = str(Path(self.log_dir) / "snapshot")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _overrides.get():
            super().__setattr__(name, value)


def load_config(folder: str | Path, overrides: dict[str, str] | None = None) -> Config:
    """Run `folder`/config.py and return its checked `C`.

    Args:
        folder: an experiment folder.
        overrides: settings by name, as text or values; they win over the environment variables of
            `ENVIRONMENT`, and those over config.py.

    Raises:
        UserError: no config.py, an unknown setting, a value of the wrong type or range, a missing setting.
    """
    file = Path(folder) / "config.py"
    if not file.is_file():
        raise UserError(f"{file}: no such file; name an experiment folder such as exp_voc")
    environment = {name: os.environ[variable] for variable, name in ENVIRONMENT.items() if os.environ.get(variable)}
    with _overriding({**environment, **(overrides or {})}), _explained(file):
        C = runpy.run_path(str(file)).get("C")
    if not isinstance(C, Config):
        raise UserError(f"{file}: defines no C = Config(__file__)")
    unset = [
        name
        for name, field in Settings.model_fields.items()
        if getattr(C, name) is REQUIRED and not _may_be_none(field)
    ]
    if unset:
        raise UserError(
            f"{file}: {', '.join(unset)} not set; assign C.{unset[0]} ({Settings.model_fields[unset[0]].description})"
        )
    check_together(C, file)
    if C.debug:
        C.nepochs, C.niters_per_epoch = min(C.nepochs, 2), min(C.niters_per_epoch, 10)
    return C


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """`["lr=0.1", "nepochs=3"]` as a dict. Raises UserError where there is no name or no "="."""
    split = [pair.partition("=") for pair in pairs]
    for pair, (name, equals, _) in zip(pairs, split, strict=True):
        if not (name.strip() and equals):
            raise UserError(f"-o {pair}: not of the form key=value, such as -o batch_size=4")
    return {name.strip(): value.strip() for name, _, value in split}


def check_together(C: Settings, file: str | Path) -> None:
    """Check the settings that depend on one another. Raises UserError."""
    low_high = C.cutmix_mask_prop_range
    problems = {
        "image_mean, image_std": len(C.image_mean) == len(C.image_std) == 3 and min(C.image_std) > 0,
        "cutmix_mask_prop_range": len(low_high) == 2 and 0 < low_high[0] <= low_high[1] <= 1,
        "train_scale_array": bool(C.train_scale_array)
        and 0 < min(C.train_scale_array) <= max(C.train_scale_array) <= MAX_SCALE,
        "eval_scale_array": bool(C.eval_scale_array)
        and 0 < min(C.eval_scale_array) <= max(C.eval_scale_array) <= MAX_SCALE,
        "niters_per_epoch, batch_size": C.niters_per_epoch * C.batch_size <= MAX_EPOCH_SAMPLES,
        "class_weight": C.class_weight is None or len(C.class_weight) == C.num_classes,
        "class_names": len(C.class_names) in (0, C.num_classes),
    }
    for names, fine in problems.items():
        if not fine:
            values = ", ".join(str(getattr(C, name)) for name in names.split(", "))
            raise UserError(f"{file}: {names} = {values} does not fit (num_classes = {C.num_classes}); see --settings")


@contextmanager
def _overriding(values: dict[str, Any]):
    token = _overrides.set(values)
    try:
        yield
    finally:
        _overrides.reset(token)


@contextmanager
def _explained(file: Path):
    """Turn pydantic's errors, and those of config.py itself, into one line."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name not in Settings.model_fields:
            close = get_close_matches(name, Settings.model_fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "--settings lists the known ones"
            raise UserError(f"{file}: unknown setting {name!r}; {hint}") from error
        raise UserError(
            f"{file}: {name} = {first['input']!r}: {first['msg']} ({Settings.model_fields[name].description})"
        ) from error
    except UserError:
        raise
    except Exception as error:  # config.py is the user's own code: whatever it raises is theirs to put right
        raise UserError(f"{file}: {type(error).__name__}: {error}") from error


def _may_be_none(field: Any) -> bool:
    return type(None) in getattr(field.annotation, "__args__", ())
