"""The GPU kernels against the plain implementation in float64: in Triton's interpreter on a CPU, and on a GPU."""

import importlib.util
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from furnace.seg_opr import upsampled
from furnace.seg_opr.interpolate import upsample
from furnace.seg_opr.losses import (
    OhemCrossEntropy,
    hard_pixels,
    label_probability,
    mean_cross_entropy,
    weighted_cross_entropy,
)
from furnace.seg_opr.pseudo_label import predict_mixed, predict_upsampled
from furnace.seg_opr.upsampled import try_kernels
from furnace.seg_opr.whole_batch import WholeBatch
from furnace.utils.labels import IGNORE_INDEX
from tests.golden_values import relative_error

triton = pytest.importorskip("triton")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
# Images, classes, small size, full size: odd sizes, one row, one pixel, equal size, smaller size, many classes.
SHAPES = [
    (2, 3, (3, 3), (7, 8)),
    (1, 19, (1, 3), (4, 9)),
    (1, 2, (5, 1), (17, 3)),
    (1, 2, (1, 1), (1, 1)),
    (1, 5, (4, 5), (4, 5)),
    (1, 2, (5, 5), (3, 4)),
    (1, 150, (1, 2), (1, 3)),
    (1, 2, (2, 66), (3, 131)),
    (1, 3, (1, 14), (1, 15)),  # rounding and division give different rows for the last pixel
    (1, 2, (1, 4), (1, 124)),
]
LARGE = [(4, 19, (50, 70), (200, 280)), (2, 150, (33, 33), (129, 131)), (1, 21, (129, 129), (513, 513))]


@pytest.fixture(scope="module")
def fused() -> ModuleType:
    """The module of the kernels in Triton's interpreter, under another name so that no other test imports it."""
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0" and np.lib.NumpyVersion(triton.__version__) < "3.7.0":
        pytest.skip("this interpreter, of the Triton of PyTorch 2.11, can't loop with NumPy 2.4: use numpy<2.4")
    spec = importlib.util.spec_from_file_location("interpreted", upsampled.__file__.replace("upsampled", "fused"))
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def interpreted(fused: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make losses and pseudo labels use the kernels for float32, as on a GPU."""
    for name in ("losses", "pseudo_label"):
        choose = lambda logits: fused if logits.dtype == torch.float32 else None  # noqa: E731
        monkeypatch.setattr(f"furnace.seg_opr.{name}.kernels", choose)
    return fused


class Case:
    """Two random logit maps, a mask, labels with a fifth ignored, and weights."""

    def __init__(self, images: int, classes: int, small: tuple[int, int], full: tuple[int, int], device=CPU):
        rng = torch.Generator().manual_seed(classes + small[1])
        self.size = full
        self.logits = [(3 * torch.randn(images, classes, *small, generator=rng)).to(device) for _ in range(2)]
        self.mask = (torch.rand(images, 1, *full, generator=rng) < 0.5).to(device)
        labels = torch.randint(0, classes, (images, *full), generator=rng)
        ignored = torch.rand(labels.shape, generator=rng) < 0.2
        self.labels = labels.where(~ignored, IGNORE_INDEX).to(device)
        self.weight = torch.rand(labels.shape, generator=rng).to(device)

    def full(self) -> list[Tensor]:
        return [upsample(logits.double(), self.size) for logits in self.logits]


def check_predictions(found: tuple[Tensor, Tensor], expected: Tensor) -> None:
    """Check labels and confidence against logits (B, K, H, W) float64."""
    labels, confidence = found
    probabilities = expected.softmax(1)
    assert labels.dtype == torch.int64
    # If labels differ, both classes are equally likely up to the rounding of float32.
    own = probabilities.gather(1, labels.unsqueeze(1))[:, 0]
    torch.testing.assert_close(own, probabilities.amax(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(confidence, probabilities.amax(1).float(), rtol=1e-5, atol=0)


def check_cross_entropy(fused: ModuleType, case: Case) -> None:
    """Check values and the gradient of a weighted sum against PyTorch's on upsampled logits."""
    logits, reference = case.logits[0].clone().requires_grad_(), case.logits[0].double().requires_grad_()
    found = fused.cross_entropy(logits, case.labels, IGNORE_INDEX)
    large = upsample(reference, case.size)
    expected = F.cross_entropy(large, case.labels, ignore_index=IGNORE_INDEX, reduction="none")
    assert (found[case.labels == IGNORE_INDEX] == 0).all() and (found >= 0).all()
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=2e-6)
    (found * case.weight).sum().backward()
    (expected * case.weight).sum().backward()
    assert logits.grad.dtype == torch.float32
    error = (logits.grad - reference.grad).norm()
    assert error <= 2e-5 * reference.grad.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_compute_the_same_as_the_plain_form(fused: ModuleType, shape: tuple):
    case = Case(*shape)
    first, second = case.full()
    check_predictions(fused.predict(case.logits[0], case.size), first)
    check_predictions(fused.predict_mixed(*case.logits, case.mask), torch.where(case.mask, second, first))
    check_cross_entropy(fused, case)


def test_layouts_do_not_matter(fused: ModuleType):
    case = Case(*SHAPES[0])
    last = [logits.to(memory_format=torch.channels_last) for logits in case.logits]
    labels = case.labels.transpose(1, 2).contiguous().transpose(1, 2)
    mask = case.mask.float().transpose(2, 3).contiguous().transpose(2, 3)
    for found, expected in (
        (fused.predict(last[0], case.size), fused.predict(case.logits[0], case.size)),
        (fused.predict_mixed(*last, mask), fused.predict_mixed(*case.logits, case.mask)),
        (fused.cross_entropy(last[0], labels, 255), fused.cross_entropy(case.logits[0], case.labels, 255)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_label_that_is_no_class_gives_nan_and_an_ignored_one_zero(fused: ModuleType):
    logits = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[[0, 1, 255], [255, 255, 7]]])
    losses = fused.cross_entropy(logits, labels, 255)
    assert losses.isnan().tolist() == [[[False, False, False], [False, False, True]]]
    fused.cross_entropy(logits, torch.full_like(labels, 255), 255).sum().backward()
    assert (logits.grad == 0).all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_logits_that_are_not_finite_give_nan(fused: ModuleType):
    for value in (float("nan"), float("inf")):
        logits = torch.zeros(1, 3, 2, 2)
        logits[0, 1] = value
        assert fused.cross_entropy(logits, torch.ones(1, 4, 4, dtype=torch.int64), 255).isnan().all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_impossible_class_is_no_fault(fused: ModuleType):
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 0] = -torch.inf
    labels, confidence = fused.predict(logits, (3, 3))
    assert labels[0, 1, 1] == 1 and confidence[0, 1, 1] == 0.5


@pytest.mark.usefixtures("interpreted")
def test_losses_and_labels_by_kernels_are_those_by_the_plain_form():
    case = Case(1, 3, (2, 2), (4, 5))
    class_weight = torch.tensor([0.5, 1.5, 2.0])
    counted = case.mask[:, 0]
    for loss in (
        lambda logits: mean_cross_entropy(logits, case.labels),
        lambda logits: mean_cross_entropy(logits, case.labels, class_weight.to(logits)),
        lambda logits: weighted_cross_entropy(logits, case.labels),
        lambda logits: weighted_cross_entropy(logits, case.labels, case.weight.to(logits), counted),
        lambda logits: OhemCrossEntropy(thresh=0.3, min_kept=8)(logits, case.labels),
        lambda logits: mean_cross_entropy(logits, torch.full_like(case.labels, IGNORE_INDEX)),
    ):
        logits, reference = case.logits[0].clone().requires_grad_(), case.logits[0].double().requires_grad_()
        found, expected = loss(logits), loss(reference)
        found.backward()
        expected.backward()
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        assert relative_error(logits.grad, reference.grad) < 1e-5 or (logits.grad == reference.grad).all()
    small, double = case.logits[0], case.logits[0].double()
    torch.testing.assert_close(
        label_probability(small, case.labels).double(), label_probability(double, case.labels), rtol=1e-5, atol=0
    )
    kept = [hard_pixels(logits, case.labels, 0.3, 8, whole=WholeBatch()) for logits in (small, double)]
    assert torch.equal(*kept)
    size = case.size
    assert torch.equal(predict_upsampled(small, size).labels, predict_upsampled(double, size).labels)
    mixed = [predict_mixed(a, b, case.mask).labels for a, b in (case.logits, [x.double() for x in case.logits])]
    assert torch.equal(*mixed)


@pytest.mark.parametrize("name", ["_predict", "_cross_entropy", "_cross_entropy_backward"])
@pytest.mark.parametrize("ones", [(), ("height", "width", "rows", "span")])
def test_kernels_compile_for_a_gpu(name: str, ones: tuple[str, ...]):
    """No GPU is needed; `ones` are arguments with value 1, for which Triton compiles another variant."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from furnace.seg_opr import fused

    kernel = getattr(fused, name)
    pointers = {"mask": "*i1", "labels": "*i64"} | dict.fromkeys(
        ["logits", "confidence", "losses", "normalizers", "grad_losses", "grad_logits"], "*fp32"
    )
    numbers = dict.fromkeys(["scale_y", "scale_x", "pixels_y", "pixels_x"], "fp32")
    fixed = {"MIXED": True, "BLOCK": 64, "CLASSES": 8} | dict.fromkeys(ones, 1)
    types = dict.fromkeys(kernel.arg_names, "i32") | pointers | numbers | dict.fromkeys(fixed, "constexpr")
    signature = {argument: types[argument] for argument in kernel.arg_names}
    constants = {(i,): fixed[argument] for i, argument in enumerate(kernel.arg_names) if argument in fixed}
    compiled = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 80, 32))
    assert len(compiled.asm["cubin"]) > 0


def test_only_float32_on_a_gpu_has_kernels():
    class OfGPU:
        is_cuda, device = True, "cuda:7"

        def __init__(self, dtype: torch.dtype):
            self.dtype = dtype

    assert upsampled.kernels(torch.zeros(1, 2, 1, 1)) is None
    assert upsampled.kernels(OfGPU(torch.float64)) is None
    # If they do not run on a GPU (here one that does not exist), there is one warning.
    with pytest.warns(UserWarning, match="slower: Triton kernels do not work on cuda:7"):
        assert upsampled.kernels(OfGPU(torch.float32)) is None
    assert upsampled.kernels(OfGPU(torch.float32)) is None


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES + LARGE)
def test_kernels_on_a_gpu(shape: tuple):
    case = Case(*shape, device=GPU)
    fused = upsampled.kernels(case.logits[0])
    first, second = case.full()
    check_predictions(fused.predict(case.logits[0], case.size), first)
    check_predictions(fused.predict_mixed(*case.logits, case.mask), torch.where(case.mask, second, first))
    check_cross_entropy(fused, case)


@pytest.mark.gpu
def test_gradients_on_a_gpu_are_deterministic_and_need_no_full_size_tensor():
    case = Case(8, 19, (128, 128), (512, 512), device=GPU)
    gradients = []
    for _ in range(3):
        logits = case.logits[0].clone().requires_grad_()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        weighted_cross_entropy(logits, case.labels, case.weight).backward()
        peak = torch.cuda.max_memory_allocated() - before
        gradients.append(logits.grad)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    assert peak < 19 * 4 * case.labels.numel() / 2


@pytest.mark.parametrize("wrong", [None, "cross_entropy", "predict"])
def test_kernels_are_tried_before_use(fused: ModuleType, monkeypatch: pytest.MonkeyPatch, wrong: str | None) -> None:
    if wrong is None:
        try_kernels(fused, CPU)
        return
    right = getattr(fused, wrong)

    def off(*given: Tensor) -> Tensor:
        return tuple(1.01 * value for value in right(*given)) if wrong == "predict" else 1.01 * right(*given)

    monkeypatch.setattr(fused, wrong, off)
    with pytest.raises(AssertionError, match="not close"), torch.no_grad():
        try_kernels(fused, CPU)
