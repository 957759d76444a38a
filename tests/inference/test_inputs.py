"""Pictures and videos that the arguments of predict.py name."""

from pathlib import Path

import numpy as np
import pytest

from furnace.inference.inputs import find_inputs
from furnace.utils.errors import UserError
from tests.tiny_data import write_image

NAMES = ("run[2]/a.png", "run[2]/deep/b.png", "run2/c.png", "other/d.png")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("run[2]", {"run[2]/a.png": "a", "run[2]/deep/b.png": "deep/b"}),
        ("run[2]/*.png", {"run[2]/a.png": "a"}),
        ("run[2]/**/*.png", {"run[2]/a.png": "a", "run[2]/deep/b.png": "deep/b"}),
        ("run[2]/deep/[ab].png", {"run[2]/deep/b.png": "b"}),
        ("run[3]/*.png", {}),
        ("run[23]/*.png", {"run2/c.png": "run2/c"}),
        ("*/?.png", {"other/d.png": "other/d", "run2/c.png": "run2/c", "run[2]/a.png": "run[2]/a"}),
        ("./other/*.png", {"other/d.png": "d"}),
    ],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_patterns_begin_after_the_folders_that_exist(tmp_path: Path, monkeypatch, text: str, found: dict, absolute):
    for name in NAMES:
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    words = [str(tmp_path / text) if absolute else text]
    if not found:
        with pytest.raises(UserError, match="no picture or video found"):
            find_inputs(words, tmp_path / "results")
        return
    inputs = find_inputs(words, tmp_path / "results")
    assert {one.path.resolve().relative_to(tmp_path.resolve()).as_posix(): one.name for one in inputs} == found
