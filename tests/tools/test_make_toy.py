"""The folder of the toy data."""

from functools import partial
from pathlib import Path

import pytest

from furnace.datasets import toy
from furnace.methods.settings import load_config
from furnace.tools import make_toy
from furnace.utils.errors import UserError
from tests.conftest import REPOSITORY


def test_the_data_are_written_where_the_experiment_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("volna", str(tmp_path))
    small = {"train": 32, "val": 1}
    monkeypatch.setattr(toy, "make_toy", partial(toy.make_toy, counts=small))
    make_toy.main([])
    C = load_config(REPOSITORY / "exp_toy")
    assert Path(C.train_source).is_file() and Path(C.train_source).is_relative_to(tmp_path)
    make_toy.main(["--target", str(tmp_path / "there")])
    assert (tmp_path / "there" / "val.txt").is_file()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path):
    (tmp_path / "toy").write_text("")
    with pytest.raises(UserError, match=r"toy/.*can't be written"):
        make_toy.main(["--target", str(tmp_path / "toy")])


def test_a_seed_below_zero_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="--seed -1: expected a whole number from 0"):
        make_toy.main(["--target", str(tmp_path / "toy"), "--seed", "-1"])
    assert not (tmp_path / "toy").exists()


def test_without_the_variable_the_data_are_written_to_the_checkout():
    parsed = make_toy.build_parser().parse_args([])
    assert parsed.target == REPOSITORY / "DATA" / "toy"
