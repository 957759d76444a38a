"""The evaluation benchmark: both arrangements predict the same."""

import re

import pytest

from benchmarks import evaluate
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY, TINY_RUN
from tests.tiny_run import NARROW


@pytest.mark.parametrize("size", [("40", "48"), ("100", "70")])
def test_same_predictions(capsys: pytest.CaptureFixture, size: tuple[str, str]):
    options = ["-o", "eval_crop_size=64", "-o", "head_channels=8", "--images", "2", "--size", *size]
    evaluate.main([str(REPOSITORY / "exp_toy"), "-d", "cpu", *options])
    same = re.search(r"([\d.]+)% of the predicted pixels", capsys.readouterr().out)
    assert float(same[1]) > 99.9


def test_a_snapshot_has_one_miou_in_both_arrangements(make_settings, lively_snapshot, capsys: pytest.CaptureFixture):
    settings = {**TINY_RUN, **NARROW, "pretrained_model": "none", "volna": make_settings().volna}
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    words = ["-d", "cpu", "--snapshot", str(lively_snapshot), "--images", "2", "--rounds", "0"]
    evaluate.main([str(REPOSITORY / "exp_voc"), *words, *options])
    found = re.search(r"mIoU published ([\d.]+), ours ([\d.]+), 2 images", capsys.readouterr().out)
    assert 0 < float(found[1]) == pytest.approx(float(found[2]), abs=0.05)


@pytest.mark.parametrize("words", [("--images", "0"), ("--size", "-3", "20"), ("--images", "x")])
def test_numbers_below_one_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=rf"^{words[0]} .*: expected a whole number from 1$"):
        evaluate.main([str(REPOSITORY / "exp_toy"), "-d", "cpu", *words])
