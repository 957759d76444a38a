"""The settings of an experiment: every name that a config.py may assign, its type, its meaning and its default.

Methods have settings of their own, see `furnace/methods/settings.py`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, PrivateAttr

from furnace.utils.checking import check
from furnace.utils.errors import UserError
from furnace.utils.names import EntryOf
from furnace.utils.setting_types import (
    CachePlace,
    ClassNames,
    Colours,
    ColourSpread,
    Encoders,
    Files,
    MeanColour,
    MetricNames,
    OptionalCount,
    OptionalFloats,
    OptionalPath,
    OptionalText,
    PathText,
    Scales,
    Share,
    Shares,
)

# Folders on this machine.
PLACES = {"volna", "root_dir", "this_dir", "log_dir", "snapshot_dir"}
# Settings that change time, space and output of a run, but not what it learns.
COSTS = {
    "num_workers", "cache", "compile", "checkpoint", "record_info_iter", "image_iter", "diagnose", "display_iter",
    "wandb", "autosave_minutes", "keep_snapshots", "eval_batch_size", "allow_absent_classes",
    "class_colors",
}  # fmt: skip
# Settings of evaluation alone.
EVALUATION = {
    "eval_source", "eval_folder", "test_source", "test_folder", "eval_crop_size", "eval_stride_rate",
    "eval_scale_array", "eval_flip", "eval_metrics", "class_names",
}  # fmt: skip
REQUIRED: Any = ...  # default of the settings that config.py must assign
# Larger numbers are typing errors, which would use all memory before they failed.
MAX_SIDE = 2**14
MAX_EPOCH_SAMPLES = 10**8
MAX_RATE = 10**6
# Rules for settings that depend on each other: names, requirement (or a function that gives it), and check.
RULES: list[tuple[tuple[str, ...], str | Callable[[Any], str], Callable[[Any], bool]]] = [
    (
        ("niters_per_epoch", "batch_size"),
        f"their product must be at most {MAX_EPOCH_SAMPLES} samples per epoch",
        lambda C: C.niters_per_epoch * C.batch_size <= MAX_EPOCH_SAMPLES,
    ),
    (
        ("class_weight", "num_classes"),
        "must be None or one weight for each class, none below 0 and one above it",
        lambda C: (
            C.class_weight is None
            or (len(C.class_weight) == C.num_classes and min(C.class_weight) >= 0 and max(C.class_weight) > 0)
        ),
    ),
    *(
        (
            (name, "num_classes"),
            f"must be empty or one {what} for each class",
            lambda C, name=name: len(getattr(C, name)) in (0, C.num_classes),
        )
        for name, what in (("class_names", "name"), ("class_colors", "colour"))
    ),
]


class Settings(BaseModel):
    """Checked, unchangeable settings. Those without a default must be assigned in config.py."""

    # `check` validates each value alone: the model's own validator is rarely needed and slow to build.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)
    rules: ClassVar[list] = RULES
    encoder_rules: ClassVar[list] = []  # checked only if all else is right, as they may import PyTorch
    _notes: tuple[str, ...] = PrivateAttr(())

    @property
    def total_iterations(self) -> int:
        """Iterations of the whole run."""
        return self.nepochs * self.niters_per_epoch

    @property
    def notes(self) -> tuple[str, ...]:
        """One line each about how config.py was understood."""
        return self._notes

    @classmethod
    def noted(cls, values: Mapping[str, Any], notes: tuple[str, ...] = ()) -> "Settings":
        """Settings with values that `check` has accepted."""
        C = cls.model_construct(**values)
        C._notes = notes
        return C

    def updated(self, **changes: Any) -> "Settings":
        """A checked copy with other values. Raises UserError, one line for each fault."""
        found, faults = check(type(self), self.model_dump() | changes)
        if faults:
            raise UserError("\n".join(map(str, faults)))
        return self.noted(found, self._notes)

    # Folders
    volna: PathText = Field(
        REQUIRED, description="folder that contains DATA; set by the environment variable volna, or found automatically"
    )
    root_dir: PathText = Field(REQUIRED, description="folder of the checkout")
    this_dir: PathText = Field(REQUIRED, description="name of the experiment's folder")
    log_dir: PathText = Field(REQUIRED, description="logs, TensorBoard and results of this experiment")
    snapshot_dir: PathText = Field(REQUIRED, description="snapshots")

    # Data
    dataset_name: str = Field(REQUIRED, description="entry of the catalog, or a name of your own")
    dataset_path: PathText = Field(REQUIRED, description="the data set's folder; relative paths in lists begin here")
    train_folder: str = Field("", description="sub-folder with image/ and label/ for lists of image ids, training")
    eval_folder: str = Field("", description="the same for evaluation")
    train_source: PathText = Field(REQUIRED, description="list of labelled images")
    unsup_source: PathText = Field(REQUIRED, description="list of unlabelled images, or a folder of images")
    eval_source: PathText = Field(REQUIRED, description="list of evaluation images")
    test_source: OptionalPath = Field(
        None, description="list or folder of images without labels, for eval.py --submit; None: eval_source"
    )
    test_folder: str = Field("test", description="sub-folder with image/ for a test_source of image ids")
    num_classes: int = Field(REQUIRED, description="classes, without the ignored one; at least 2", ge=2, le=255)
    class_names: ClassNames = Field((), description="names, if the catalog has none for dataset_name")
    class_colors: Colours = Field(
        (),
        description="colours of pictures, such as #ff8000, in config.py also [255, 128, 0]; overlays leave out black",
    )
    allow_absent_classes: bool = Field(False, description="train even if no training label shows some class")
    reduce_zero_label: bool = Field(
        False, description="0 in label files is unlabelled, and value v is class v - 1, as in ADE20K's official labels"
    )
    image_mean: MeanColour = Field(
        (0.485, 0.456, 0.406), description="RGB mean of the normalisation, in [0, 1]; not assigned: that of the encoder"
    )
    image_std: ColourSpread = Field((0.229, 0.224, 0.225), description="RGB standard deviation, likewise")
    image_height: PositiveInt = Field(REQUIRED, description="training crop", le=MAX_SIDE)
    image_width: PositiveInt = Field(REQUIRED, description="training crop", le=MAX_SIDE)
    train_scale_array: Scales = Field(
        (0.5, 0.75, 1, 1.5, 1.75, 2.0), description="scales, one drawn per training image"
    )
    num_train_imgs: OptionalCount = Field(
        None, description="labelled images, if config.py computes niters_per_epoch from them"
    )
    num_unsup_imgs: OptionalCount = Field(None, description="unlabelled images, likewise")
    max_samples: OptionalCount = Field(None, description="samples per epoch, likewise")
    num_workers: NonNegativeInt = Field(
        4, description="loader processes per device, at most one per core; 0: none, the main process loads", le=2**10
    )
    cache: CachePlace = Field(
        "off", min_length=1, description="decoded training images: off, ram, or a folder for them; see docs/speed.md"
    )

    # Method
    method: Annotated[str, EntryOf("furnace.methods.method:METHODS")] = Field(
        "cpcl", description="training method; docs/methods.md describes each"
    )
    labeled_ratio: PositiveInt = Field(REQUIRED, description="1/labeled_ratio of the images are labelled")
    cutmix: bool = Field(True, description="mix unlabelled images; False: methods see only the first stream")
    cutmix_mask_prop_range: Shares = Field(
        (0.25, 0.5), description="smallest and largest share of the area under boxes"
    )
    cutmix_boxmask_n_boxes: PositiveInt = Field(3, description="boxes per CutMix mask", le=1000)
    cutmix_boxmask_fixed_aspect_ratio: bool = Field(False, description="boxes have the image's aspect ratio")
    cutmix_boxmask_by_size: bool = Field(False, description="the range is for the sides, not the area")
    cutmix_boxmask_outside_bounds: bool = Field(False, description="boxes may reach outside the image")
    cutmix_boxmask_no_invert: bool = Field(False, description="boxes are 0 in a mask of ones")
    ohem: bool = Field(False, description="online hard example mining in the supervised loss")
    ohem_thresh: Share = Field(0.7, description="OHEM: a pixel is hard below this probability of its class")
    ohem_min_kept: NonNegativeInt = Field(
        50000, description="OHEM: minimum number of hard pixels, per image of the batch", le=2**31
    )
    class_weight: OptionalFloats = Field(None, description="weights of the classes in the supervised loss")

    # Network
    backbone: Annotated[Encoders, EntryOf("furnace.base_model.encoders:ENCODERS")] = Field(
        REQUIRED,
        description="encoder: resnet18 to resnet152, or any name of timm (train.py --list-encoders WORD); or two, "
        "separated by a comma, one for each branch",
    )
    pretrained_model: Files = Field(
        None, description="encoder weights: a file, 'imagenet', or None; or two, separated by a comma, likewise"
    )
    warm_start: Files = Field(
        None,
        description="snapshot to start from, instead of pretrained_model, or one for each branch, separated by a "
        "comma; a snapshot of one branch starts all; None: none",
    )
    decoder: Annotated[str, EntryOf("furnace.base_model.decoders:DECODERS")] = Field(
        "deeplabv3plus", description="decoder: deeplabv3plus, upernet, or dpt for plain ViTs"
    )
    head_channels: PositiveInt = Field(256, description="width of the decoder; 256 in the paper", le=2**13)
    bn_eps: PositiveFloat = Field(1e-5, description="BatchNorm epsilon; encoders of timm keep their own")
    bn_momentum: Share = Field(0.1, description="BatchNorm momentum, likewise")

    # Optimization
    seed: NonNegativeInt = Field(12345, lt=2**63, description="seed of everything random")
    optimizer: Annotated[str, EntryOf("furnace.engine.optim:OPTIMIZERS")] = Field(
        "sgd", description="optimizer: sgd, adamw"
    )
    lr: PositiveFloat = Field(REQUIRED, description="learning rate of both optimizers", le=MAX_RATE)
    lr_backbone: PositiveFloat = Field(1.0, description="factor of the encoder's learning rate", le=MAX_RATE)
    lr_power: PositiveFloat = Field(0.9, description="power of the poly learning-rate policy")
    momentum: Share = Field(0.9, description="SGD momentum")
    weight_decay: float = Field(1e-4, description="weight decay; none on norms, biases and embeddings", ge=0)
    batch_size: PositiveInt = Field(
        REQUIRED, description="labelled images per step, and as many from each unlabelled stream", le=2**16
    )
    nepochs: PositiveInt = Field(REQUIRED, description="epochs", le=10**6)
    niters_per_epoch: PositiveInt = Field(
        REQUIRED,
        description="iterations per epoch; usually images // batch_size, so that 0 means too few images",
        le=10**7,
    )

    # Speed
    amp: Literal["auto", "bf16", "fp16", "off"] = Field(
        "auto", description="precision; auto: bf16 or fp16 where it is faster"
    )
    compile: Literal["auto", "on", "off", "background", "reduce-overhead"] = Field(
        "auto",
        description="torch.compile; on: in the first iteration; background: in another process, while training begins; "
        "auto: background on a GPU, off if sync_bn ties several together; reduce-overhead: CUDA graphs (not measured)",
    )
    accumulate: PositiveInt = Field(
        1, description="parts of a batch, computed one after another to save memory", le=2**16
    )
    checkpoint: bool = Field(
        False,
        description="compute the encoders' blocks again in the backward pass: less memory, longer steps, same results",
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
    wandb: OptionalText = Field(
        None,
        description="project of Weights & Biases that gets the records of TensorBoard, too (pip install wandb); None: "
        "none",
    )
    debug: bool = Field(False, description="two epochs of at most ten iterations, to see that everything runs")

    # Interruptions and faults
    autosave_minutes: float = Field(
        10, description="minutes between autosaves for -c auto; only the last is kept; 0: none", ge=0
    )
    keep_snapshots: NonNegativeInt = Field(0, description="number of latest snapshots epoch-N.pth to keep; 0: all")
    on_nan: Literal["stop", "skip"] = Field("stop", description="when the loss or gradients of a batch are not finite")
    max_nan_skips: NonNegativeInt = Field(10, description="on_nan = skip: batches to skip in the whole run, then stop")
    on_bad_image: Literal["stop", "skip"] = Field(
        "stop",
        description="when an image or label can't be read: stop, or take the next one (in prediction: none) and report",
    )

    # Evaluation
    eval_crop_size: PositiveInt = Field(REQUIRED, description="side of the sliding window", le=MAX_SIDE)
    eval_stride_rate: float = Field(2 / 3, description="stride of the window, as a share of its side", gt=0, le=1)
    eval_scale_array: Scales = Field((1.0,), description="scales, whose scores are added")
    eval_batch_size: PositiveInt = Field(8, description="windows per network pass, from several images", le=2**12)
    eval_flip: bool = Field(False, description="add the scores of the mirrored windows")
    eval_metrics: Annotated[MetricNames, EntryOf("furnace.seg_opr.metrics:METRICS")] = Field(
        ("iou",), description="metrics, see docs/metrics.md; the first ranks snapshots"
    )
