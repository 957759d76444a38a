"""Fixtures of the methods' tests."""

from collections.abc import Callable

import pytest
import torch

from furnace.methods.build import build_method
from furnace.methods.method import Method
from furnace.utils.settings import Settings
from tests.methods.test_methods import WEIGHT, K


@pytest.fixture
def make_method(make_settings: Callable[..., Settings]) -> Callable[..., Method]:
    """`make_method(method=..., setting=...)`: a method in float64, with `unsup_weight` = `WEIGHT`."""

    def make(**changes) -> Method:
        return build_method(make_settings(num_classes=K, unsup_weight=WEIGHT, **changes)).to(torch.float64)

    return make
