"""The evaluation benchmark: both arrangements predict the same."""

import re

import pytest

from benchmarks import evaluate
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("size", [("40", "48"), ("100", "70")])
def test_same_predictions(capsys: pytest.CaptureFixture, size: tuple[str, str]):
    options = ["-o", "eval_crop_size=64", "-o", "head_channels=8", "--images", "2", "--size", *size]
    evaluate.main([str(REPOSITORY / "exp_toy"), "-d", "cpu", *options])
    same = re.search(r"([\d.]+)% of the predicted pixels", capsys.readouterr().out)
    assert float(same[1]) > 99.9


@pytest.mark.parametrize("words", [("--images", "0"), ("--size", "-3", "20"), ("--images", "x")])
def test_numbers_below_one_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=rf"^{words[0]} .*: expected a whole number from 1$"):
        evaluate.main([str(REPOSITORY / "exp_toy"), "-d", "cpu", *words])
