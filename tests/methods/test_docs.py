"""The example of docs/methods.md works unchanged, and the page names every method and setting."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from furnace.methods.method import METHODS
from furnace.methods.settings import all_settings
from furnace.seg_opr.losses import MeanCrossEntropy
from tests.conftest import REPOSITORY
from tests.methods.test_methods import WEIGHT, check, make_batch, plain_loss, study, supervised, teach

PAGE = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")


def naive_self_training(network, batch) -> torch.Tensor:
    labels, confidence = teach(network, batch, 1)
    return supervised(network, batch, 1) + WEIGHT * plain_loss(study(network, batch, 1), labels, confidence**POWER)


POWER = 2.5


def test_the_example_computes_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "self_training.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("self_training")
    SelfTraining = METHODS.pop("self_training")
    settings = SelfTraining.Settings(unsup_weight=WEIGHT, power=POWER)
    check(SelfTraining(MeanCrossEntropy(), settings), naive_self_training, make_batch())


def test_every_method_and_its_settings_are_documented() -> None:
    for name in METHODS.all():
        assert f"| `{name}` |" in PAGE
    first_column = re.findall(r"^\| (`[a-z_`, ]+`) \|", PAGE.split("## Settings")[1], flags=re.MULTILINE)
    documented = {name for cell in first_column for name in re.findall(r"`(\w+)`", cell)}
    assert documented <= set(all_settings().model_fields)
    own = {name for method in METHODS.all().values() for name in method.Settings.model_fields}
    assert documented >= own | {"cutmix", "warm_start"}
