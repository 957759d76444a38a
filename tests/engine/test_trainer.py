"""The trainer: what it saves and when, what it refuses, and how it handles failing steps."""

import errno
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.distributed import HashStore
from torch.utils.data import get_worker_info

from furnace.datasets.randomness import Purpose
from furnace.datasets.reading import Files
from furnace.engine import best_effort, continuing, diagnostics, distributed, preconditions, record, starting
from furnace.engine import trainer as trainer_module
from furnace.engine.faults import explain_training
from furnace.engine.recipe import describe_division
from furnace.engine.record import RESULTS, TRAINING_METRICS
from furnace.engine.snapshot_folder import AUTOSAVE, LAST
from furnace.engine.trainer import Trainer
from furnace.methods.method import METHODS, Loss
from furnace.seg_opr.whole_batch import WholeBatch
from furnace.utils import files, locks
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.tiny_run import NARROW

CPU = torch.device("cpu")


@pytest.fixture
def settings(make_settings, tmp_path) -> Callable[..., Settings]:
    def make(**changes) -> Settings:
        folders = {"log_dir": str(tmp_path / "log"), "snapshot_dir": str(tmp_path / "log" / "snapshot")}
        return make_settings(**{"method": "supervised", **NARROW, **folders, **changes})

    return make


@pytest.fixture
def make_trainer(settings) -> Callable[..., Trainer]:
    def make(resume: str | None = None, overwrite: bool = False, **changes) -> Trainer:
        return Trainer(settings(**changes), CPU, resume, overwrite, Console(quiet=True))

    return make


def saves(trainer: Trainer) -> list[str]:
    return sorted(path.name for path in Path(trainer.C.snapshot_dir).glob("*.pth"))


def log_of(trainer: Trainer) -> str:
    return (Path(trainer.C.log_dir) / "log_last.log").read_text(encoding="utf-8")


def poison(trainer: Trainer, *iterations: int) -> None:
    """Fill the images of these iterations with NaN."""
    prepare = trainer.prepare

    def poisoned(batch):
        batch = prepare(batch)
        if trainer.iteration in iterations:
            batch.images.fill_(torch.nan)
        return batch

    trainer.prepare = poisoned


def states(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of weights, statistics and momenta."""
    momenta = {
        f"momentum {number} {index}": entry["momentum_buffer"].clone()
        for number, optimizer in enumerate(trainer.learner.optimizers)
        for index, entry in optimizer.state_dict()["state"].items()
    }
    return {name: value.clone() for name, value in trainer.network.state_dict().items()} | momenta


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def states_before(make_trainer: Callable, iteration: int, **changes) -> dict[str, torch.Tensor]:
    """The states of an undisturbed run before an iteration."""
    trainer = make_trainer(log_dir="/nowhere", snapshot_dir="/nowhere", **changes)
    loader = trainer_module.build_train_loader(trainer.C, trainer.dataset)
    for number, batch in zip(range(iteration), loader, strict=False):
        trainer.learner.step(trainer.prepare(batch), number)
    return states(trainer)


def test_saves_are_kept_as_the_settings_say(make_trainer) -> None:
    trainer = make_trainer(nepochs=4, niters_per_epoch=1, snapshot_iter=1, keep_snapshots=2, autosave_minutes=1e-9)
    trainer.fit()
    assert saves(trainer) == ["epoch-2.pth", "epoch-3.pth", LAST]
    assert torch.load(Path(trainer.C.snapshot_dir) / LAST, weights_only=True)["iteration"] == 4


def test_an_autosave_records_the_last_finished_epoch(make_trainer) -> None:
    trainer = make_trainer(autosave_minutes=1e-9)
    seen = []
    autosave = trainer.saver.try_state

    def observed():
        autosave()
        content = torch.load(Path(trainer.C.snapshot_dir) / AUTOSAVE, weights_only=True)
        seen.append((content["epoch"], content["iteration"]))

    trainer.saver.try_state = observed
    trainer.fit()
    # The last iteration of the last epoch writes its snapshot instead.
    assert seen == [(-1, 1), (-1, 2), (0, 3), (0, 4), (0, 5)]
    assert saves(trainer) == ["epoch-1.pth", LAST]


def test_zero_minutes_disable_the_autosave(make_trainer) -> None:
    trainer = make_trainer(autosave_minutes=0)
    trainer.saver.try_state = lambda: pytest.fail("an autosave")
    trainer.fit()


def test_an_autosave_that_fails_does_not_end_the_run(make_trainer, monkeypatch) -> None:
    save = continuing.save_snapshot

    def fails(path: Path, snapshot) -> None:
        if path.name == AUTOSAVE:
            raise UserError("no space left")
        save(path, snapshot)

    monkeypatch.setattr(continuing, "save_snapshot", fails)
    trainer = make_trainer(autosave_minutes=1e-9)
    trainer.fit()
    assert "no autosave: no space left" in log_of(trainer)
    assert saves(trainer) == ["epoch-1.pth", LAST]


def test_earlier_snapshots_are_only_replaced_on_request(make_trainer) -> None:
    make_trainer().fit()
    with pytest.raises(
        UserError, match=r"holds 2 snapshots of a run, the latest epoch-\w+\.pth; continue it \(-c auto\)"
    ):
        make_trainer()
    finished = make_trainer("auto")
    finished.fit()
    assert "the run of 2 epochs is finished; to train longer, use -o nepochs=N" in log_of(finished)
    assert saves(finished) == ["epoch-1.pth", LAST]
    with pytest.raises(UserError, match="the run of 2 epochs is finished; to train longer, use -o nepochs=N"):
        make_trainer(str(Path(finished.C.snapshot_dir) / LAST))
    trainer = make_trainer(overwrite=True, nepochs=1)
    results = Path(trainer.C.log_dir) / RESULTS
    results.write_text("[]")
    assert saves(trainer) == ["epoch-1.pth", LAST], "before the first iteration nothing is gone"
    trainer.fit()
    assert not results.exists(), "they were those of the earlier run"
    assert saves(trainer) == ["epoch-0.pth", LAST]
    results.write_text("[]")
    for path in Path(trainer.C.snapshot_dir).glob("*.pth"):
        path.unlink()
    make_trainer(nepochs=1).fit()
    assert not results.exists(), "removing snapshots by hand leaves no results of an earlier run, either"


@pytest.mark.parametrize("resume", ["auto", "epoch-1.pth"])
def test_a_run_does_not_continue_in_its_folder_with_other_epochs_or_batches(make_trainer, resume: str) -> None:
    first = make_trainer(nepochs=2, niters_per_epoch=2, snapshot_iter=1, keep_snapshots=0)
    first.fit()
    folder = Path(first.C.snapshot_dir)
    resume = str(folder / resume) if resume != "auto" else resume
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pth")}
    changed = r"C\.niters_per_epoch = 2 \(now 1\)"
    with pytest.raises(UserError, match=rf"made with {changed}; .* \(-o niters_per_epoch=2\), or, .* -o log_dir="):
        make_trainer(resume, nepochs=4, niters_per_epoch=1)
    changed = rf"C\.batch_size = 3 \(now 6\) and {changed}"
    with pytest.raises(UserError, match=rf"made with {changed}; .* \(-o batch_size=3 -o niters_per_epoch=2\), or, "):
        make_trainer(resume, nepochs=4, niters_per_epoch=1, batch_size=6)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pth")} == before
    assert make_trainer("auto", nepochs=3, niters_per_epoch=2).start_iteration == 4, "more epochs are the same run"


def test_a_run_from_another_folder_continues_counted_in_epochs(make_trainer, tmp_path: Path) -> None:
    first = make_trainer(nepochs=2, niters_per_epoch=2)
    first.fit()
    elsewhere = {"log_dir": str(tmp_path / "other"), "snapshot_dir": str(tmp_path / "other" / "snapshot")}
    trainer = make_trainer(
        str(Path(first.C.snapshot_dir) / LAST), nepochs=3, niters_per_epoch=1, batch_size=6, **elsewhere
    )
    assert trainer.start_iteration == 2
    assert any("its iteration 4 is iteration 2 here, at the same epoch" in note for note in trainer.notes)
    trainer.fit()
    assert saves(trainer) == ["epoch-2.pth", LAST]
    assert torch.load(Path(trainer.C.snapshot_dir) / LAST, weights_only=True)["iteration"] == 3


def test_nothing_is_removed_for_a_run_that_cannot_read_its_images(make_trainer, monkeypatch) -> None:
    first = make_trainer(nepochs=1, niters_per_epoch=1)
    first.fit()
    again = make_trainer(overwrite=True, nepochs=1, niters_per_epoch=1)
    with monkeypatch.context() as patched:
        patched.setattr(trainer_module, "build_train_loader", lambda *_: (_ for _ in ()).throw(UserError("no cache")))
        with pytest.raises(UserError, match="no cache"):
            again.fit()
    assert saves(first) == ["epoch-0.pth", LAST]
    path = again.dataset.sample(0, 0, Purpose.ORDER_LABELED).image
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"^{path}: can't be decoded"):
        again.fit()
    assert saves(first) == ["epoch-0.pth", LAST]


def test_continuing_with_fewer_epochs_loses_nothing(make_trainer) -> None:
    first = make_trainer(nepochs=4, niters_per_epoch=2, snapshot_iter=1, autosave_minutes=1e-9)
    step = first.learner.step
    first.learner.step = lambda batch, iteration: step(batch, iteration) if iteration < 7 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        first.fit()
    fewer = make_trainer("auto", nepochs=3, niters_per_epoch=2)
    fewer.fit()
    assert AUTOSAVE in saves(fewer)
    assert make_trainer("auto", nepochs=4, niters_per_epoch=2).start_iteration == 7


def test_a_last_epoch_that_a_full_disk_prevented_is_written_later(make_trainer, monkeypatch) -> None:
    first = make_trainer()
    with monkeypatch.context() as patched:
        patched.setattr(first.saver, "save_epoch", lambda epoch: (_ for _ in ()).throw(UserError("no space left")))
        with pytest.raises(UserError, match="no space left"):
            first.fit()
    assert saves(first) == [AUTOSAVE]
    make_trainer("auto").fit()
    assert saves(first) == ["epoch-1.pth", LAST]
    assert torch.load(Path(first.C.snapshot_dir) / LAST, weights_only=True)["iteration"] == 6


def test_an_interrupted_run_is_replaced_on_request_only(make_trainer) -> None:
    trainer = make_trainer()
    trainer.saver.save_state()
    with pytest.raises(UserError, match=r"holds 1 snapshot of a run, the latest autosave\.pth; continue it"):
        make_trainer()


@pytest.mark.parametrize("held", ["log_dir", "snapshot_dir"])
def test_a_second_run_in_the_same_folders_is_refused_and_touches_nothing(make_trainer, monkeypatch, held: str) -> None:
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)
    trainer = make_trainer()
    with locks.locked(folder := getattr(trainer.C, held), warn=pytest.fail):
        with pytest.raises(UserError, match=f"^{folder}: process {os.getpid()} on .* is training here"):
            trainer.fit()
        files = {path.name for path in Path(trainer.C.log_dir).rglob("*") if path.is_file()}
        assert files == {locks.LOCK, locks.HOLDER}
    trainer.fit()
    assert LAST in saves(trainer)


def test_a_restarted_run_continues_even_with_overwrite(make_trainer, monkeypatch) -> None:
    monkeypatch.setattr(distributed, "_lasting", HashStore())
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    make_trainer(nepochs=4, niters_per_epoch=1, snapshot_iter=1).fit()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for overwrite in (False, True):
        assert make_trainer(overwrite=overwrite, nepochs=5, niters_per_epoch=1).start_iteration == 4


@pytest.fixture
def two_machines(monkeypatch) -> SimpleNamespace:
    """Make this process the second of two: `first` is what the first one has found, `seen` the iterations of both."""
    machines = SimpleNamespace(first=[], seen=[])

    class Two(WholeBatch):
        def gather(self, value: torch.Tensor) -> torch.Tensor:
            return torch.tensor(machines.seen.pop(0))

    monkeypatch.setattr(starting, "from_first", lambda make: machines.first.pop(0))
    monkeypatch.setattr(starting, "world_size", lambda: 2)
    monkeypatch.setattr(starting, "whole_batch", Two)
    monkeypatch.setattr(starting, "LATE_SECONDS", 0)
    return machines


def test_another_machine_need_not_see_the_folder_of_the_first(settings, two_machines) -> None:
    two_machines.first, two_machines.seen = [("found", True, []), 6], [[6, -1]]
    assert starting.choose_together(settings(), "auto", False, CPU) == ("found", True, [])


def test_a_save_that_the_first_machine_sees_late_is_waited_for(settings, two_machines) -> None:
    two_machines.first, two_machines.seen = [("old", True, []), 3, ("new", True, []), 6], [[3, 6], [6, 6]]
    assert starting.choose_together(settings(), "auto", False, CPU) == ("new", True, [])


def test_a_save_that_only_another_machine_sees_is_named(settings, two_machines) -> None:
    two_machines.first, two_machines.seen = [(None, False, []), -1] * starting.LATE_TRIES, [[-1, 6]] * 10
    with pytest.raises(UserError, match=r"snapshot: process 1 sees a save of iteration 6 there, but the first process"):
        starting.choose_together(settings(), "auto", False, CPU)


def test_the_latest_save_is_known_without_loading_it(make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.saver.save_state()
    assert starting.latest_iteration(trainer.C.snapshot_dir) == 0
    assert starting.latest_iteration(str(tmp_path / "nothing")) == -1


def test_settings_that_differ_from_the_snapshot_are_named(make_trainer) -> None:
    make_trainer(backbone="resnet18").fit()
    trainer = make_trainer("auto", backbone="resnet18", nepochs=3, lr=0.125, num_workers=1)
    (note,) = (note for note in trainer.notes if "other settings" in note)
    assert "lr 0.005 -> 0.125" in note
    assert "nepochs 2 -> 3" in note
    assert "num_workers" not in note
    with pytest.raises(
        UserError, match=r"tensors are missing and .*; it was made with C\.backbone = 'resnet18', here 'resnet34'$"
    ):
        make_trainer("auto", nepochs=3, backbone="resnet34")


def test_a_run_continued_from_an_earlier_snapshot_stays_the_latest(make_trainer) -> None:
    first = make_trainer(nepochs=4, niters_per_epoch=1, snapshot_iter=1)
    first.fit()
    folder = Path(first.C.snapshot_dir)
    again = make_trainer(str(folder / "epoch-1.pth"), nepochs=5, niters_per_epoch=1, snapshot_iter=1)
    again._begin()  # if it is killed before its first save, it must not continue from epoch 3
    assert make_trainer("auto", nepochs=5, niters_per_epoch=1).start_iteration == 2


@pytest.mark.parametrize("method", ["supervised", "mean_teacher"])
def test_a_loss_that_is_not_finite_stops_with_its_batch_and_the_state_before_it(make_trainer, method: str) -> None:
    expected = states_before(make_trainer, 4, method=method)
    trainer = make_trainer(method=method)
    poison(trainer, 4)
    with pytest.raises(UserError) as error:
        trainer.fit()
    names = [trainer.dataset.sample(1, position, 0).image.name for position in (3, 4, 5)]
    message = str(error.value)
    assert message.startswith("iteration 4 (epoch 1): ")
    assert f"not finite; batch: labelled {', '.join(names)}" in message
    assert ": sup not finite" in message
    assert_same(states(make_trainer("auto", method=method)), expected)
    assert torch.load(Path(trainer.C.snapshot_dir) / AUTOSAVE, weights_only=True)["iteration"] == 4


@pytest.mark.parametrize("fused", [False, True])
def test_after_a_late_check_the_state_is_that_before_the_first_bad_iteration(make_trainer, fused: bool) -> None:
    """As on a GPU, which is checked from time to time; if `fused`, with the kernel that reads the flag itself."""
    changes = {"method": "supervised"}

    def fuse(trainer: Trainer) -> None:
        for optimizer in trainer.learner.optimizers:
            optimizer.defaults["fused"] = fused
            for group in optimizer.param_groups:
                group["fused"] = fused

    expected_trainer = make_trainer(**changes)
    fuse(expected_trainer)
    loader = trainer_module.build_train_loader(expected_trainer.C, expected_trainer.dataset)
    for number, batch in zip(range(1), loader, strict=False):
        expected_trainer.learner.step(expected_trainer.prepare(batch), number)

    trainer = make_trainer(**changes)
    trainer.check_iter = 5
    fuse(trainer)
    poison(trainer, 1)
    with pytest.raises(UserError, match=r"iteration 1 \(epoch 0\): sup not finite"):
        trainer.fit()
    assert trainer.iteration == 1
    assert_same(states(make_trainer("auto", **changes)), states(expected_trainer))


def test_a_fault_after_an_unseen_bad_batch_saves_the_state_before_that(make_trainer) -> None:
    trainer = make_trainer()
    trainer.check_iter = 100
    poison(trainer, 1)
    step = trainer.learner.step

    def fails(batch, iteration):
        if iteration == 2:
            raise KeyError("another fault")
        return step(batch, iteration)

    trainer.learner.step = fails
    with pytest.raises(KeyError):
        trainer.fit()
    assert_same(states(make_trainer("auto")), states_before(make_trainer, 1))
    assert make_trainer("auto").start_iteration == 1


def test_bad_batches_are_skipped_up_to_a_bound(make_trainer) -> None:
    trainer = make_trainer(on_nan="skip", max_nan_skips=2)
    poison(trainer, 1, 4)
    trainer.fit()
    assert trainer.skipped == 2
    content = torch.load(Path(trainer.C.snapshot_dir) / LAST, weights_only=True)
    assert all(torch.isfinite(value).all() for value in content["model"].values())
    assert content["skipped"] == 2
    assert log_of(trainer).count("skipped: iteration") == 2
    trainer = make_trainer(overwrite=True, on_nan="skip", max_nan_skips=1)
    poison(trainer, 0, 1)
    with pytest.raises(UserError, match=r"iteration 1 .* 2 iterations skipped, C\.max_nan_skips = 1"):
        trainer.fit()


def test_metrics_are_recorded_as_often_as_the_settings_say(make_trainer) -> None:
    trainer = make_trainer(nepochs=4, record_info_iter=5)
    trainer.fit()
    lines = (Path(trainer.C.log_dir) / TRAINING_METRICS).read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [4, 9, 11]


def test_a_skipped_batch_changes_nothing(make_trainer) -> None:
    expected = states_before(make_trainer, 2)
    trainer = make_trainer(on_nan="skip")
    seen = []
    step = trainer.learner.step

    def observed(batch, iteration):
        output = step(batch, iteration)
        seen.append(states(trainer))
        return output

    trainer.learner.step = observed
    poison(trainer, 2)
    trainer.fit()
    assert_same(seen[1], expected)
    assert_same(seen[2], expected)
    assert any(not torch.equal(seen[3][name], value) for name, value in expected.items())


@pytest.mark.parametrize("on_gpu", [True, False])
def test_out_of_memory_says_which_settings_to_lower_and_saves(make_trainer, on_gpu: bool) -> None:
    expected = states_before(make_trainer, 3)
    trainer = make_trainer()
    losses = trainer.learner.method.losses

    def hungry(networks, batch):
        yield from losses(networks, batch)
        if trainer.iteration == 3:  # the forward pass is done and has changed the statistics
            if on_gpu:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            torch.empty(2**60, dtype=torch.uint8)

    trainer.learner.method.losses = hungry
    with pytest.raises(
        UserError, match=r"out of memory in iteration 3: .* raise C\.accumulate = 1 .*C\.batch_size = 3"
    ):
        trainer.fit()
    assert_same(states(make_trainer("auto")), expected)


def test_an_error_in_the_program_keeps_its_traceback_and_the_state(make_trainer) -> None:
    trainer = make_trainer()
    step = trainer.learner.step

    def fails(batch, iteration):
        if iteration == 2:
            raise KeyError("a fault of ours")
        return step(batch, iteration)

    trainer.learner.step = fails
    with pytest.raises(KeyError, match="a fault of ours"):
        trainer.fit()
    assert make_trainer("auto").start_iteration == 2


def test_an_incomplete_update_is_not_saved(make_trainer) -> None:
    trainer = make_trainer(method="cps")
    second = trainer.learner.optimizers[1]
    step = second.step

    def cut(*args, **kwargs):
        if trainer.iteration == 2:
            raise RuntimeError("cut between the optimizers")
        return step(*args, **kwargs)

    second.step = cut
    with pytest.raises(RuntimeError, match="cut between"):
        trainer.fit()
    assert saves(trainer) == []


def test_a_fault_before_the_first_step_does_not_block_the_next_run(make_trainer) -> None:
    trainer = make_trainer()
    bad = trainer.dataset.sample(0, 0, 0).image
    content = bad.read_bytes()
    bad.write_bytes(content[:40])
    with pytest.raises(UserError, match=r"damaged|decoded"):
        trainer.fit()
    assert saves(trainer) == []
    bad.write_bytes(content)
    make_trainer().fit()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_named_and_the_state_is_saved(make_trainer, num_workers: int) -> None:
    trainer = make_trainer(num_workers=num_workers)
    batches = [[trainer.dataset.sample(0, 3 * step + i, 0).image for i in range(3)] for step in range(3)]
    first, bad = next((step, path) for step in (1, 2) for path in batches[step] if path not in batches[0])
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(UserError) as error:
        trainer.fit()
    assert str(error.value).startswith(f"{bad}: ")
    assert "\n" not in str(error.value)
    assert saves(trainer) == [AUTOSAVE]
    assert make_trainer("auto").start_iteration == first


class DeadlyFiles(Files):
    """Reading one image kills the process, as the kernel does if memory runs out."""

    deadly: Path

    def image(self, path: Path) -> np.ndarray:
        if path == self.deadly:
            assert get_worker_info() is not None, "that would be the test itself"
            os.kill(os.getpid(), signal.SIGKILL)
        return super().image(path)


@pytest.mark.parametrize("purpose", [Purpose.ORDER_LABELED, Purpose.ORDER_UNLABELED_1])
def test_a_killed_loader_is_reported_with_its_file_and_the_state_is_saved(make_trainer, purpose: Purpose) -> None:
    changes = {"method": "cpcl", "num_workers": 1}
    trainer = make_trainer(**changes)
    trainer.dataset.files = DeadlyFiles(trainer.C.num_classes)
    bad = trainer.dataset.files.deadly = trainer.dataset.sample(1, 0, purpose).image
    with pytest.raises(UserError) as error:
        trainer.fit()
    how = "(is killed by signal: Killed|exited unexpectedly)"  # PyTorch notices it by a signal or by the missing answer
    told = rf"a loader process \(\d+\) {how}; files being read by loaders: {bad}; if none is the cause"
    assert re.match(told, str(error.value)), error.value
    assert "\n" not in str(error.value)
    assert make_trainer("auto", **changes).start_iteration == trainer.iteration


def test_no_file_is_blamed_if_loaders_were_reading_nothing(make_trainer) -> None:
    trainer = make_trainer()
    trainer.dataset.watch(2)
    error = RuntimeError("DataLoader worker (pid 7) exited unexpectedly. Rerunning with fewer workers may help.")
    said = str(explain_training(error, trainer.C, trainer.dataset, iteration=0))
    assert said.startswith("a loader process (7) exited unexpectedly; files being read by loaders: none; if none is")


def test_two_losses_of_one_pass_are_explained(make_trainer, monkeypatch) -> None:
    def losses(self, networks, batch):
        loss = self.criterion(networks.logits(batch.images, 1), batch.labels)
        yield Loss("sup", loss)
        yield Loss("more", 2 * loss)

    monkeypatch.setattr(METHODS.find("supervised"), "losses", losses)
    with pytest.raises(UserError, match=r"^method 'supervised': two losses .*yield their sum as one Loss, "):
        make_trainer(method="supervised").fit()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_images_are_replaced_on_request_and_reported(make_trainer, num_workers: int) -> None:
    changes = {"method": "cpcl", "on_bad_image": "skip"}
    trainer = make_trainer(num_workers=num_workers, **changes)
    bad = [trainer.dataset.sample(1, 0, 0).image, trainer.dataset.sample(0, 0, 1).image]
    for path in bad:
        path.write_bytes(path.read_bytes()[:40])
    trainer.fit()
    last = log_of(trainer).split("2 images could not be read and were replaced by others:")[1]
    for path in bad:
        assert str(path) in last
    assert saves(trainer) == ["epoch-1.pth", LAST]


def test_the_replacement_is_the_next_image_of_the_order(make_trainer) -> None:
    dataset = make_trainer(on_bad_image="skip").dataset
    bad, following = dataset.sample(0, 4, 0), dataset.sample(0, 5, 0)
    labeled = [following if sample == bad else sample for sample in dataset.labeled]
    bad.label.write_bytes(b"")
    found = dataset[0, 4]
    (reason,) = found["skipped"]
    assert reason.startswith(f"{bad.label}: ")
    dataset.labeled = labeled
    expected = dataset[0, 4]
    assert "skipped" not in expected
    for name, array in expected.items():
        assert (found[name] == array).all(), name


def test_replacing_images_ends_if_none_can_be_read(make_trainer) -> None:
    trainer = make_trainer(on_bad_image="skip")
    for sample in trainer.dataset.labeled:
        sample.image.write_bytes(b"")
    with pytest.raises(UserError, match="images in a row can't be read, the last: "):
        trainer.fit()


def no_space(*args) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere.bin")


def test_a_full_disk_costs_figures_and_pictures_but_not_the_run(make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((record, "append"), (best_effort, "append"), (diagnostics, "save_picture")):
        monkeypatch.setattr(module, name, no_space)
    trainer = make_trainer(method="cpcl", image_iter=2, record_info_iter=1, diagnose=True)
    trainer.fit()
    assert saves(trainer) == ["epoch-1.pth", LAST]
    said = [line for line in log_of(trainer).splitlines() if "can't be written (No space left on device)" in line]
    told = sorted(Path(line.split(" WARNING ")[1].split(": ")[0]).name.split(".")[0] for line in said)
    assert told == ["events", "figures", "strips", "truth"], "each once, though each has failed several times"


def test_a_full_disk_during_anything_else_is_one_line(make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    monkeypatch.setattr(trainer.learner, "step", no_space)
    with pytest.raises(UserError, match=r"^somewhere\.bin: no space left on the disk; make room"):
        trainer.fit()


def test_a_full_disk_during_a_snapshot_ends_the_run_and_keeps_earlier_saves(
    make_trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(nepochs=3, snapshot_iter=1, autosave_minutes=1e-9)
    autosave = trainer.saver.try_state

    def then_full() -> None:
        autosave()
        if trainer.iteration == 5:
            monkeypatch.setattr(files, "_flush", no_space)

    trainer.saver.try_state = then_full
    with pytest.raises(UserError, match=r"epoch-1\.pth: no space left on the disk .* are needed"):
        trainer.fit()
    assert "no autosave: " in log_of(trainer)
    monkeypatch.undo()
    assert make_trainer("auto", nepochs=3).start_iteration == 5


def test_the_start_up_table_shows_how_a_batch_is_divided(settings) -> None:
    C = settings(batch_size=4, accumulate=2)
    assert describe_division(C, CPU, 1) == [
        "4 images per device, in 2 parts of 2",
        "BatchNorm sees 2 of 4 images at a time",
        "agreement, OHEM and normalisers use 2 images",
    ]
    C = settings(batch_size=4)
    assert describe_division(C, CPU, 1) == []
    assert describe_division(C, torch.device("cuda"), 2)[-1] == "BatchNorm sees 4 of 4 images at a time"
    C = settings(batch_size=4, sync_bn=False)
    assert describe_division(C, torch.device("cuda"), 2)[-1].endswith("statistics are averaged over processes")


def test_the_loss_scale_of_the_autosave_is_that_before_the_bad_iteration(make_trainer) -> None:
    changes = {"amp": "fp16", "nepochs": 3, "niters_per_epoch": 4}
    undisturbed = make_trainer(**changes)
    loader = trainer_module.build_train_loader(undisturbed.C, undisturbed.dataset)
    for number, batch in zip(range(3), loader, strict=False):
        undisturbed.learner.step(undisturbed.prepare(batch), number)
    trainer = make_trainer(**changes)
    trainer.check_iter = 8  # as on a GPU, where a fault is noticed later
    poison(trainer, 3)
    with pytest.raises(UserError, match="iteration 3"):
        trainer.fit()
    saved = torch.load(Path(trainer.C.snapshot_dir) / AUTOSAVE, weights_only=True)
    assert (saved["iteration"], saved["scaler"]) == (3, undisturbed.learner.scale.state_dict())


def test_adamw_continues_bit_for_bit_and_no_other_optimizer_does(make_trainer) -> None:
    changes = {"optimizer": "adamw", "niters_per_epoch": 2, "snapshot_iter": 1, "lr": 1e-3}
    make_trainer(nepochs=4, **changes).fit()
    folder = Path(make_trainer("auto", nepochs=5, **changes).C.snapshot_dir)
    whole = torch.load(folder / LAST, weights_only=True)
    assert {"exp_avg", "exp_avg_sq", "step"} <= whole["optimizer_1"]["state"][0].keys()
    again = make_trainer(str(folder / "epoch-1.pth"), nepochs=4, **changes)
    again.fit()
    assert_same(torch.load(folder / LAST, weights_only=True)["model"], whole["model"])
    with pytest.raises(UserError, match=r"trained with C\.optimizer = 'adamw', here 'sgd'.*-o optimizer=adamw"):
        make_trainer("auto", nepochs=5, niters_per_epoch=2)


def test_processes_of_different_precision_are_refused(make_trainer, monkeypatch) -> None:
    def shares(share: dict) -> list[dict]:
        return [share, {name: "fp16" if name.startswith("precision") else value for name, value in share.items()}]

    monkeypatch.setattr(preconditions, "gather_objects", shares)
    with pytest.raises(UserError, match=r"^precision \(C\.amp = off\) is fp16 in process 1, but off in the first"):
        make_trainer(amp="off")
