"""Golden values of the published code: read them, set the weights they were made with, and compare."""

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from _pytest.mark import MarkDecorator
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"


@cache
def load_arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of `name`.npz."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def load_case(name: str, case: str) -> dict[str, np.ndarray]:
    """The arrays of one case of `name`.npz: those whose keys begin with "CASE/"."""
    return {key.partition("/")[2]: array for key, array in load_arrays(name).items() if key.startswith(f"{case}/")}


def each_case(*names: str) -> MarkDecorator:
    """Decorator that runs a test with arguments `name` and `case` on every case of each `name`.npz."""
    keys = {name: np.load(GOLDEN / f"{name}.npz").files for name in names}
    found = [(name, case) for name in names for case in sorted({k.partition("/")[0] for k in keys[name] if "/" in k})]
    assert {name for name, _ in found} == set(names), "a golden file without cases"
    return pytest.mark.parametrize(("name", "case"), found)


def load_json(name: str) -> dict | list:
    """The content of `name`.json."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def fill_deterministic(network: nn.Module, salt: int = 0) -> None:
    """Fill every entry of the state dict with numbers that only depend on its name and `salt`."""

    def fill(entry: tuple[str, Tensor]) -> None:
        key, value = entry
        value.copy_(torch.as_tensor(deterministic_array(key, tuple(value.shape), salt)))

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, network.state_dict().items()))


def deterministic_array(key: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Values of the entry `key` of a state dict, by the table in golden/README.md."""
    rng = np.random.RandomState((zlib.crc32(key.encode()) + salt) & 0x7FFFFFFF)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if key.endswith("running_mean"):
        return 0.1 * rng.standard_normal(shape)
    if key.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 4:
        return rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    if key.endswith("weight"):
        return rng.uniform(0.5, 1.5, shape)
    return 0.1 * rng.standard_normal(shape)


def relative_error(actual, expected) -> float:
    """Largest difference divided by the largest expected magnitude; shapes must be equal."""
    actual, expected = (np.asarray(torch.as_tensor(a).detach(), dtype=np.float64) for a in (actual, expected))
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), np.finfo(np.float64).tiny))
