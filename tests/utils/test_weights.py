"""Weights files: every format of a state dict, no code executed, and a UserError for damaged files."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from furnace.utils.errors import UserError
from furnace.utils.weights import load_file, read_state_dict, strip_prefix

WEIGHTS = {"conv1.weight": torch.arange(12.0).view(3, 4), "bn1.bias": torch.ones(5)}


def saved(content: object, zipped: bool) -> bytes:
    """The bytes that torch.save writes, as a zip archive or in the older format."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


SNAPSHOTS = {zipped: saved({"model": WEIGHTS, "epoch": 3}, zipped) for zipped in (False, True)}


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
def test_tensors_and_plain_containers_are_loaded(zipped, tmp_path):
    path = tmp_path / "epoch-3.pth"
    path.write_bytes(SNAPSHOTS[zipped])
    content = load_file(path)
    assert content["epoch"] == 3
    assert all(torch.equal(content["model"][key], value) for key, value in WEIGHTS.items())


OTHER = {name: value + 1 for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (WEIGHTS, ""),
        ({"model": WEIGHTS, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}, ""),
        ({"state_dict": WEIGHTS, "pytorch-lightning_version": "2.4.0"}, ""),
        ({"model": {"state_dict": WEIGHTS}}, ""),
        ({**WEIGHTS, "version": "1.0"}, ""),
        ({"state_dict": WEIGHTS, "state_dict_ema": OTHER}, "taken from 'state_dict', not from 'state_dict_ema'"),
        ({"model_ema": WEIGHTS}, "taken from 'model_ema'"),
        ({"state_dict_ema": WEIGHTS, "arch": "resnet50"}, "taken from 'state_dict_ema'"),
    ],
)
def test_state_dict_is_found_and_a_choice_is_noted(content, note, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    found, told = read_state_dict(path)
    assert told == note
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod.net."])
@pytest.mark.parametrize("inner", ["", "_orig_mod."])
def test_prefixes_of_other_programs_are_removed_and_noted(prefix, inner):
    tensors = {f"{prefix}branch1.{inner}head.weight": torch.ones(2), f"{prefix}branch2.{inner}bias": torch.ones(1)}
    found, note = strip_prefix(tensors, r"branch\d+\.", "file.pth")
    assert list(found) == ["branch1.head.weight", "branch2.bias"]
    assert bool(note) == bool(prefix + inner)
    parts = [part for part in (prefix + inner).split(".") if part]
    assert all(f"{part}." in note for part in parts)


def test_tensors_beside_the_network_are_noted():
    tensors = {"model.branch1.w": torch.ones(1), "loss.weight": torch.ones(3)}
    found, note = strip_prefix(tensors, "branch1", "file.pth")
    assert list(found) == ["branch1.w"]
    assert note == "removed from its names: model.; not used: loss.weight"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["student.branch1.w", "teacher.branch1.w"], r"file\.pth: contains several networks \(student\., teacher\.\)"),
        (["branch1.w", "module.branch1.w"], r"file\.pth: contains the same tensors with and without module"),
    ],
)
def test_a_file_of_several_networks_is_refused(names, message):
    with pytest.raises(UserError, match=message):
        strip_prefix(dict.fromkeys(names, torch.ones(1)), "branch1", "file.pth")


def test_names_without_the_mark_stay_and_the_outermost_network_counts():
    assert strip_prefix({"a.b": torch.ones(1)}, "branch1", "file.pth") == ({"a.b": torch.ones(1)}, "")
    nested = {"net.layer1.w": torch.ones(1), "net.aux.layer1.w": torch.ones(1)}
    assert list(strip_prefix(nested, "layer1", "file.pth").tensors) == ["layer1.w", "aux.layer1.w"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_safetensors_load_by_their_content(name, dtype, tmp_path):
    save_file({key: value.to(dtype) for key, value in WEIGHTS.items()}, tmp_path / name)
    found = read_state_dict(tmp_path / name).tensors
    assert all(torch.equal(found[key], value.to(dtype)) and found[key].dtype == dtype for key, value in WEIGHTS.items())


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_])
def test_numbers_of_numpy_beside_the_tensors_load(kind, zipped, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(saved({"model": WEIGHTS, "best": kind(1), "list": [kind(0)], "dtype": np.dtype(kind)}, zipped))
    content = load_file(path)
    assert (content["best"], content["list"], content["dtype"]) == (1, [0], kind)
    assert isinstance(content["best"], kind)


def test_numpys_names_before_version_2_load(tmp_path):
    path = tmp_path / "weights.pth"
    content = saved({"model": WEIGHTS, "best": np.float64(0.5)}, False)
    for now in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        path.write_bytes(content.replace(b"numpy._core.multiarray", now).replace(b"numpy.core.multiarray", now))
        assert load_file(path)["best"] == 0.5


def test_arrays_of_numpy_are_refused_with_a_remedy(tmp_path):
    torch.save({"model": WEIGHTS, "classes": np.array(["a", None], dtype=object)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"weights\.pth: refused: .*_reconstruct.*torch\.save its state dict alone"):
        load_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, {"model": {}}, [torch.ones(2)], torch.ones(2), "text", 7])
def test_file_without_a_state_dict_is_refused(content, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"weights\.pth: contains no state dict"):
        read_state_dict(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file; check the path"):
        load_file(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r": is a folder; name a file in it"):
        load_file(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that even root can't read")
def test_a_file_that_can_not_be_read_is_named():
    with pytest.raises(UserError, match=r"/proc/self/mem: can't be read \(Input/output error\); check"):
        load_file("/proc/self/mem")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged: the file is empty"),
        (b"\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "damaged: it is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "damaged: it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS.*git lfs pull"),
        (b"\x40\0\0\0\0\0\0\0{" + b"x" * 20, "damaged or not a"),
        (b"PK\x03\x04" + b"\0" * 99, "damaged or not a"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_other_files_are_recognised_by_their_beginning(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*{message}.*; remove it") as error:
        load_file(tmp_path / name, "remove it")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_recognised(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: .*a TorchScript program, not a state dict"):
        load_file(tmp_path / "model.pt")


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
def test_any_damaged_file_is_read_or_gives_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content)
    try:
        read_state_dict(path)
    except UserError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
