"""Weights files: every form of a state dict, nothing executed, and a UserError for whatever is damaged."""

import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from furnace.utils.errors import UserError
from furnace.utils.weights import load_file, read_state_dict

WEIGHTS = {"conv1.weight": torch.arange(12.0).view(3, 4), "bn1.bias": torch.ones(5)}


def saved(content: object, zipped: bool) -> bytes:
    """What torch.save writes, as a zip archive or in the format before it."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


SNAPSHOTS = {zipped: saved({"model": WEIGHTS, "epoch": 3}, zipped) for zipped in (False, True)}


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
def test_tensors_and_plain_containers_come_back(zipped, tmp_path):
    path = tmp_path / "epoch-3.pth"
    path.write_bytes(SNAPSHOTS[zipped])
    content = load_file(path)
    assert content["epoch"] == 3
    assert all(torch.equal(content["model"][key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS, "epoch": 3},
        {"state_dict": WEIGHTS},
        {f"module.{key}": value for key, value in WEIGHTS.items()},
        {"model": {f"module.{key}": value for key, value in WEIGHTS.items()}},
        {**WEIGHTS, "version": "1.0"},
    ],
    ids=["bare", "model", "state_dict", "module prefix", "model with module prefix", "with text"],
)
def test_state_dict_is_found_and_its_prefix_removed(content, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    found = read_state_dict(path)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize("content", [{"epoch": 3}, {"model": {}}, [torch.ones(2)], torch.ones(2), "text", 7])
def test_file_without_a_state_dict_is_refused(content, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"weights\.pth: holds no state dict"):
        read_state_dict(path)


def test_missing_file_is_named(tmp_path):
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(UserError, match=r": no such file; check the path"):
            load_file(path)


@pytest.mark.parametrize("form", ["zip", "plain pickle"])
def test_file_that_would_run_code_is_refused_and_runs_none(form, trapped_file):
    path, marker = trapped_file
    if form == "plain pickle":
        path.write_bytes(b"cbuiltins\nopen\n(V%s\nVw\ntR." % str(marker).encode())
        pickle.loads(path.read_bytes()).close()
        assert marker.exists(), "the trap is broken: plain unpickling doesn't spring it"
        marker.unlink()
    for read in (load_file, read_state_dict):
        with pytest.raises(UserError, match=r"trapped\.pth: refused"):
            read(path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_file_is_named(share, zipped, tmp_path):
    path = tmp_path / "epoch-3.pth"
    path.write_bytes(SNAPSHOTS[zipped][: int(share * len(SNAPSHOTS[zipped]))])
    with pytest.raises(UserError, match=r"epoch-3\.pth: .*damaged"):
        load_file(path)


CHANGES = st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=4)


def damaged(zipped: bool, changes: list[tuple[int, int]]) -> bytes:
    """A snapshot with some of its bytes changed."""
    content = bytearray(SNAPSHOTS[zipped])
    for place, value in changes:
        content[place % len(content)] = value
    return bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@settings(max_examples=120)
@given(
    st.builds(damaged, st.booleans(), CHANGES)
    | st.binary(max_size=60)
    | st.text("(){}[]tlds.0123NKMRbuqo\n\x80\x02", max_size=30).map(str.encode)
)
def test_any_damage_and_any_bytes_are_read_over_or_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content)
    try:
        read_state_dict(path)
    except UserError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
