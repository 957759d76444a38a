"""Arguments of several commands."""

import os
from pathlib import Path

import pytest

from furnace.utils.arguments import user_path


@pytest.mark.parametrize("text", ["~", "~/log", "a/~", "~no_such_user/x", ".", "/a b"])
def test_paths_from_home_are_found_and_others_stay(text: str):
    """Shells leave the "~" in --option=~/path."""
    own = text == "~" or text.startswith("~/")
    assert user_path(text) == Path(os.environ["HOME"] + text[1:] if own else text)
