"""The monitor: means over steps, times, the figures file across continued runs, TensorBoard, and the terminal."""

import logging
import re
import struct
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from furnace.engine.monitor import Monitor, open_log, peak_memory
from furnace.engine.record import TRAINING_METRICS, read_metrics


def make_monitor(folder: Path, console: Console | None = None, **changes) -> Monitor:
    settings = {"total": 6, "start": 0, "niters_per_epoch": 3, "record_iter": 2, "display_iter": 4} | changes
    return Monitor(folder, console=console or Console(file=StringIO()), **settings)


def recorded(folder: Path) -> list[dict]:
    return read_metrics(folder / TRAINING_METRICS)


def run(monitor: Monitor, values: dict[int, float]) -> None:
    with monitor:
        for iteration, value in values.items():
            monitor.record(iteration, 0.1 / (iteration + 1), {"loss": torch.tensor(value), "union": torch.tensor(1.5)})


def read_events(folder: Path) -> dict[tuple[int, str], float]:
    """The scalars in TensorBoard's record files by step and tag.

    Each record is a length, its checksum, the event and its checksum.
    """
    found = {}
    for path in sorted(folder.glob("tb/events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            at += 12 + length + 4
    return found


def test_figures_are_means_since_the_last_record(tmp_path: Path):
    run(make_monitor(tmp_path), {0: 1.0, 1: 3.0, 2: 4.0, 3: 4.0, 4: 0.0, 5: 10.0})
    records = recorded(tmp_path)
    assert [(f["iteration"], f["loss"], f["union"]) for f in records] == [(1, 2.0, 1.5), (3, 4.0, 1.5), (5, 5.0, 1.5)]
    assert [f["lr"] for f in records] == [0.1 / 2, 0.1 / 4, 0.1 / 6]
    events = read_events(tmp_path)
    for record in records:
        for tag in ("train/loss", "train/union", "train/lr", "cost/step_seconds", "cost/data_seconds"):
            assert events[record["iteration"], tag] == pytest.approx(record[tag.split("/")[1]], rel=1e-6)


def test_a_skipped_iteration_loses_only_its_own_figures(tmp_path: Path):
    nan, inf = float("nan"), float("inf")
    run(make_monitor(tmp_path, record_iter=3), {0: 1.0, 1: nan, 2: 4.0, 3: nan, 4: inf, 5: -inf})
    first, second = recorded(tmp_path)
    assert (first["loss"], first["union"]) == (2.5, 1.5)
    assert (second["loss"], second["union"]) == (None, 1.5)


def test_broken_lines_are_left_out(tmp_path: Path):
    sound = b'{"iteration": 2, "loss": 1}'
    lines = [b"7", b"[]", b'"x"', b"{}", b'{"iteration": null}', b'{"iteration": "x"}', b"\xff", b"{", sound, b'{"it']
    (tmp_path / TRAINING_METRICS).write_bytes(b"\n".join(lines))
    assert recorded(tmp_path) == [{"iteration": 2, "loss": 1}]


def test_time_waiting_for_data_is_recorded_separately(tmp_path: Path):
    def slow():
        for value in range(2):
            time.sleep(0.05)
            yield value

    with make_monitor(tmp_path, total=2) as monitor:
        for iteration in monitor.timed(slow()):
            time.sleep(0.02)
            monitor.record(iteration, 0.1, {"loss": torch.tensor(1.0)})
    (record,) = recorded(tmp_path)
    assert 0.05 <= record["data_seconds"] <= record["step_seconds"] - 0.02


def test_a_continued_run_goes_on_in_the_same_file(tmp_path: Path):
    run(make_monitor(tmp_path), {0: 1.0, 1: 1.0, 2: 2.0, 3: 2.0})
    with open(tmp_path / TRAINING_METRICS, "a") as file:
        file.write('{"iteration": 5, "lo')
    (tmp_path / TRAINING_METRICS).write_text((tmp_path / TRAINING_METRICS).read_text() + "\n")
    run(make_monitor(tmp_path, start=2), {2: 7.0, 3: 7.0, 4: float("nan"), 5: float("nan")})
    assert [(f["iteration"], f["loss"]) for f in recorded(tmp_path)] == [(1, 1.0), (3, 7.0), (5, None)]
    assert recorded(tmp_path / "nowhere") == []


def test_memory_agrees_with_the_kernel():
    held = torch.ones(2**24)  # 64 MiB
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    assert peak_memory() == pytest.approx(peak, rel=0.05)
    assert peak > held.nbytes


def test_without_a_terminal_there_are_no_colours_or_moving_bars(tmp_path: Path):
    output = StringIO()
    console = Console(file=output)
    open_log(tmp_path, "log", console)
    monitor = make_monitor(tmp_path, console=console, display_iter=2)
    run(monitor, dict.fromkeys(range(6), 1.0))
    shown = output.getvalue()
    assert "\x1b" not in shown and "\r" not in shown
    assert shown.count("6/6 [") == 1  # the finished bar, once
    assert "iteration 6/6" in shown
    assert "iteration 6/6" in (tmp_path / "log_last.log").read_text()
    logging.getLogger("furnace").handlers.clear()


def test_the_log_has_a_line_at_every_display_interval(tmp_path: Path) -> None:
    open_log(tmp_path, "log", Console(file=StringIO()))
    run(make_monitor(tmp_path, total=12, record_iter=1, display_iter=5), dict.fromkeys(range(12), 1.0))
    logging.getLogger("furnace").handlers.clear()
    assert re.findall(r"iteration (\d+)/12", (tmp_path / "log_last.log").read_text()) == ["5", "10", "12"]


def test_figures_carry_their_run(tmp_path: Path):
    for name, start in (("one", 0), ("two", 2)):
        run(make_monitor(tmp_path, run=name, start=start), {start: 1.0, start + 1: 3.0})
    assert [record["iteration"] for record in recorded(tmp_path)] == [1, 3]
    for name, iteration in (("one", 1), ("two", 3)):
        (record,) = read_metrics(tmp_path / TRAINING_METRICS, name)
        assert record["iteration"] == iteration and "run" not in record
    assert [record["loss"] for record in read_metrics(tmp_path / TRAINING_METRICS, "one")] == [2.0]
