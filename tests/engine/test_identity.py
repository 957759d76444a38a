"""A run is identified by its content: another run, or a run on other data, is not continued by mistake."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.distributed import HashStore

from furnace.datasets.loaders import build_train_set
from furnace.datasets.splits import Sample
from furnace.engine import distributed
from furnace.engine.distributed import CPU
from furnace.engine.identity import (
    END_BYTES,
    changed_data,
    data_identity,
    file_digest,
    samples_digest,
    snapshot_digest,
)
from furnace.engine.record import RECORD, TRAINING_METRICS
from furnace.engine.traces import STRIPS
from furnace.engine.trainer import Trainer
from furnace.utils import locks
from furnace.utils.errors import UserError
from furnace.utils.locks import locked
from tests.tiny_run import NARROW

EPOCHS = {"niters_per_epoch": 1, "snapshot_iter": 1}


@pytest.fixture
def make_trainer(make_settings, tmp_path) -> Callable[..., Trainer]:
    def make(resume: str | None = None, overwrite: bool = False, run: str = "log", **changes) -> Trainer:
        folders = {"log_dir": str(tmp_path / run), "snapshot_dir": str(tmp_path / run / "snapshot")}
        C = make_settings(**{"method": "supervised", **NARROW, **folders, **EPOCHS, **changes})
        return Trainer(C, CPU, resume, overwrite, Console(quiet=True))

    return make


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run_of(path: Path) -> str:
    return torch.load(path, weights_only=True)["identity"]["run"]


@pytest.fixture
def restart(monkeypatch) -> Callable[[], None]:
    """Make this the process of a launcher with a store that lasts; `restart()` lets it seem started again."""
    monkeypatch.setattr(distributed, "_lasting", HashStore())
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return lambda: monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")


def test_a_run_that_is_killed_before_it_began_does_not_continue_the_one_that_it_replaces(make_trainer, restart):
    make_trainer(nepochs=2).fit()
    distributed._lasting = HashStore()  # of another launcher
    make_trainer(overwrite=True, nepochs=4)  # killed before fit()
    restart()
    again = make_trainer(overwrite=True, nepochs=4)
    assert again.start_iteration == 0
    again.fit()
    assert make_trainer(overwrite=True, nepochs=6).start_iteration == 4, "its own snapshots are continued"


def test_a_run_killed_before_it_went_back_goes_back_after_a_restart(make_trainer, restart, tmp_path: Path) -> None:
    make_trainer(nepochs=4).fit()
    earlier = str(tmp_path / "log/snapshot/epoch-1.pth")
    distributed._lasting = HashStore()
    make_trainer(earlier, nepochs=5)
    restart()
    assert make_trainer(earlier, nepochs=5).start_iteration == 2


def test_a_refused_run_is_refused_after_a_restart_and_continues_no_other(
    make_trainer, restart, monkeypatch, tmp_path: Path
) -> None:
    make_trainer(nepochs=2).fit()
    distributed._lasting = HashStore()
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0)
    for restarts in (0, 1):
        with pytest.raises(UserError, match="holds 2 snapshots of a run"):
            make_trainer(nepochs=4)
        second = make_trainer(overwrite=True, nepochs=4)
        assert second.start_iteration == 0
        with locked(tmp_path / "log", warn=pytest.fail), pytest.raises(UserError, match="is training here"):
            second.fit()
        if not restarts:
            restart()


def test_a_restart_of_a_launcher_whose_store_ends_continues_and_removes_nothing(make_trainer, restart, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    make_trainer(nepochs=2, overwrite=True).fit()
    distributed._lasting = HashStore()
    restart()
    assert make_trainer(nepochs=4, overwrite=True).start_iteration == 2


@pytest.mark.parametrize("resume", [None, "auto"])
def test_a_run_that_started_before_another_one_saved_does_not_replace_it(
    make_trainer, resume: str | None, tmp_path: Path
) -> None:
    late = make_trainer(resume, nepochs=3)
    make_trainer(nepochs=2).fit()
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"log/snapshot: holds 2 snapshots of a run.*-c auto"):
        late.fit()
    assert files(tmp_path) == before


def test_a_run_from_elsewhere_is_not_continued_into_the_folder_of_another(make_trainer, tmp_path: Path) -> None:
    make_trainer(nepochs=4).fit()
    make_trainer(run="other", nepochs=2, seed=99).fit()
    before = files(tmp_path)
    last = str(tmp_path / "other/snapshot/epoch-last.pth")
    with pytest.raises(UserError, match=r"log/snapshot: holds 4 snapshots of a run"):
        make_trainer(last, nepochs=4, seed=99)
    assert files(tmp_path) == before
    make_trainer(last, overwrite=True, nepochs=4, seed=99).fit()
    record = json.loads((tmp_path / "log/snapshot" / RECORD).read_text())
    assert record["run"] != run_of(tmp_path / "other/snapshot/epoch-last.pth")
    identity = torch.load(tmp_path / "log/snapshot/epoch-3.pth", weights_only=True)["identity"]
    assert identity["continues"]["run"] == run_of(tmp_path / "other/snapshot/epoch-last.pth")


def test_a_snapshot_of_another_run_in_the_folder_is_named(make_trainer, tmp_path: Path) -> None:
    make_trainer(nepochs=2).fit()
    make_trainer(run="other", nepochs=3).fit()
    (tmp_path / "other/snapshot/epoch-2.pth").rename(tmp_path / "log/snapshot/epoch-2.pth")
    (tmp_path / "log/snapshot/epoch-2.pth").touch()
    with pytest.raises(UserError, match=r"epoch-2.pth: belongs to another run than .*run.json"):
        make_trainer("auto", nepochs=5)


def test_all_files_of_a_run_carry_its_identity(make_trainer, tmp_path: Path) -> None:
    shown = {"method": "cps", "record_info_iter": 1, "image_iter": 1}
    make_trainer(nepochs=1, **shown).fit()
    make_trainer("auto", nepochs=2, **shown).fit()
    folder = tmp_path / "log/snapshot"
    record = json.loads((folder / RECORD).read_text())
    assert {run_of(path) for path in folder.glob("*.pth")} == {record["run"]}
    lines = (tmp_path / "log" / TRAINING_METRICS).read_text().splitlines()
    assert [json.loads(line)["run"] for line in lines] == [record["run"]] * 2
    strips = list((tmp_path / "log" / STRIPS).glob("*.png"))
    assert len(strips) == 2 and {Image.open(path).text["run"] for path in strips} == {record["run"]}
    make_trainer(overwrite=True, nepochs=2).fit()
    assert run_of(folder / "epoch-1.pth") != record["run"]


@pytest.mark.parametrize("change", ["order", "grown"])
def test_other_lists_are_not_continued_by_mistake(make_trainer, change: str, tmp_path: Path) -> None:
    first = make_trainer(nepochs=2)
    first.fit()
    path = Path(first.C.train_source)
    lines = path.read_text().split()
    path.write_text("\n".join(lines[::-1] if change == "order" else [*lines, lines[0]]))
    with pytest.raises(UserError, match=r"was trained on other lists: labelled images .*_labeled.*-c .*epoch-1.pth"):
        make_trainer("auto", nepochs=4)
    again = make_trainer(str(tmp_path / "log/snapshot/epoch-last.pth"), nepochs=4)
    assert any("was trained on other lists" in note for note in again.notes)


def test_a_changed_image_is_noted(make_trainer) -> None:
    first = make_trainer(nepochs=2)
    first.fit()
    image = first.dataset.labeled[0].image
    image.write_bytes(image.read_bytes() + b"\0")
    assert any("files have changed since: labelled images" in note for note in make_trainer("auto", nepochs=4).notes)


def test_the_identity_of_data_is_its_content_not_its_place(make_settings, voc_root: Path, tmp_path: Path) -> None:
    C = make_settings()
    here = data_identity(C, build_train_set(C))
    assert here.keys() == {"labeled", "unlabeled"} and here == data_identity(C, build_train_set(C))
    sample = build_train_set(C).unlabeled[0]
    sample.image.write_bytes(sample.image.read_bytes()[:-1] + b"x")
    now = data_identity(C, build_train_set(C))
    assert now["labeled"] == here["labeled"]
    assert now["unlabeled"]["names"] == here["unlabeled"]["names"]
    assert now["unlabeled"]["content"] != here["unlabeled"]["content"]


@pytest.mark.parametrize("size", [0, 1, END_BYTES, END_BYTES + 1, 3 * END_BYTES])
def test_digests_depend_on_size_beginning_and_end(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = {b"x" * size, b"x" * size + b"x", b"y" + b"x" * size, b"x" * size + b"y"}
    digests, wholes = set(), set()
    for content in contents:
        path.write_bytes(content)
        digests.add(file_digest(path))
        wholes.add(snapshot_digest(path))
    assert len(digests) == len(wholes) == len(contents)


def test_a_label_is_digested_completely(tmp_path: Path) -> None:
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a.bmp")
    digests = set()
    for value in (b"x", b"y"):
        sample.image.write_bytes(b"image")
        sample.label.write_bytes(b"x" * END_BYTES + value + b"x" * END_BYTES)  # without compression
        digests.add(samples_digest([sample]))
    assert len(digests) == 2


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.png"
    path.touch()
    monkeypatch.setattr(
        Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied", str(path)))
    )
    with pytest.raises(UserError, match=r"a\.png: can't be read \(Permission denied\)"):
        samples_digest([Sample("a", path, None)])


def test_digests_of_samples_depend_on_names_order_files_and_labels(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "a_label.png", "b_label.png")]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    first, second = (Sample(name, paths[n], paths[n + 2]) for n, name in enumerate("ab"))
    without = Sample("a", paths[0], None)
    lists = [
        *([first, second], [second, first], [first], [without, second], [Sample("c", *paths[::2]), second]),
        [Sample("a", tmp_path / "missing", paths[2]), second],
    ]
    assert len({samples_digest(samples) for samples in lists}) == len(lists)
    assert samples_digest([first], labels=False) == samples_digest([without]) != samples_digest([first])
    paths[2].write_bytes(b"others")
    assert samples_digest([first, second]) not in {samples_digest(samples) for samples in lists[1:]}


def test_different_lists_are_reported_and_missing_ones_are_not() -> None:
    now = {"labeled": {"path": "a.txt", "images": 5, "names": "n", "content": "c"}, "unlabeled": {"names": "x"}}

    def told(**changes) -> list[str]:
        return changed_data({"labeled": now["labeled"] | changes, "more": {"names": "y"}}, now, "names")

    assert told() == told(content="d") == told(names=None) == []
    assert told(names="m") == ["labelled images a.txt (other names or another order)"]
    assert told(names="m", images=4) == ["labelled images a.txt (4 images, now 5)"]
    assert changed_data({"labeled": "damaged"}, now, "names") == []


def digest(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def test_digests_are_those_of_earlier_versions(make_settings, tmp_path: Path) -> None:
    """If digests changed, every continued run would count as a run on other data."""
    image, label, listing = (tmp_path / name for name in ("a.png", "a_label.png", "list.txt"))
    image.write_text("abc")
    label.write_text("wxyz")
    assert file_digest(image) == digest("3:abc") and snapshot_digest(image) == hashlib.sha256(b"abc").hexdigest()
    samples = [Sample("a", image, label), Sample("b", tmp_path / "missing", None)]
    content = digest(f"a\0{digest('3:abc')} {digest('4:wxyz')}\nb\0missing\n")
    assert samples_digest(samples) == content

    listing.write_text("b\na\n")
    C = make_settings().updated(train_source=str(listing), unsup_source=str(tmp_path))
    found = data_identity(C, SimpleNamespace(labeled=samples, unlabeled=samples[:1]))
    sha256 = hashlib.sha256(b"a\nb").hexdigest()
    assert found == {
        "labeled": {
            **{"path": str(listing), "images": 2, "sha256": sha256, "names": digest("a\nb"), "content": content}
        },
        "unlabeled": {
            **{"path": str(tmp_path), "images": 1, "sha256": None, "names": digest("a")},
            "content": digest(f"a\0{digest('3:abc')}\n"),  # independent of the label
        },
    }
