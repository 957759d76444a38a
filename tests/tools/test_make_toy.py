"""Where the toy data go."""

from pathlib import Path

import pytest

from furnace.datasets import toy
from furnace.tools import make_toy
from furnace.utils.config import load_config
from tests.conftest import REPOSITORY


def test_they_go_where_the_experiment_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("volna", str(tmp_path))
    small = {"train": 32, "val": 1}
    monkeypatch.setattr(make_toy, "make_toy", lambda folder, seed: toy.make_toy(folder, seed, small))
    make_toy.main([])
    C = load_config(REPOSITORY / "exp_toy")
    assert Path(C.train_source).is_file() and Path(C.train_source).is_relative_to(tmp_path)
    make_toy.main(["--target", str(tmp_path / "there")])
    assert (tmp_path / "there" / "val.txt").is_file()


def test_without_the_variable_they_go_to_the_checkout():
    parsed = make_toy.build_parser().parse_args([])
    assert parsed.target == REPOSITORY / "DATA" / "toy"
