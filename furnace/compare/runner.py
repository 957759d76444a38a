"""Run trials: each is trained and evaluated in its own processes, one after another or one per device."""

import json
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from furnace.compare.trials import RECORD, Trial
from furnace.engine.record import RECORD as RUN_RECORD
from furnace.engine.record import RESULTS, TRAINING_METRICS, read_metrics
from furnace.engine.snapshot_folder import LAST, clear, list_epochs, list_snapshots
from furnace.inference.results import read_results
from furnace.seg_opr.metrics import MetricList
from furnace.utils.errors import SIGNAL_BASE, Stopped, UserError
from furnace.utils.files import explained
from furnace.utils.locks import try_lock
from furnace.utils.stopping import SAVING, heeded

OUTPUT, LOCK, VALIDATION, TEST = "output.log", "lock", "validation", "test"
MESSAGE_LINES = 2
PROBE_OVERRIDES = {"nepochs": "1", "record_info_iter": "1", "autosave_minutes": "0"}


class TrialFailed(Exception):
    """A command of a trial failed; the message names the command and the file of its output, and has its last lines."""


class Runner:
    """Run trials of one experiment.

    Args:
        file: config.py of the experiment, or another file next to its train.py and eval.py.
        keep: snapshots to keep after a trial is evaluated: "all", "last" or "none".
    """

    def __init__(self, file: Path, keep: str = "last"):
        self.file, self.keep = file, keep
        self.running: set[subprocess.Popen] = set()
        self.stopping = False

    def run_all(self, trials: Sequence[Trial], devices: Sequence[str]) -> Iterator[tuple[Trial, dict | TrialFailed]]:
        """Yield each trial with its result or failure as it ends; `devices` work in parallel.

        Raises:
            Stopped: SIGINT, SIGTERM or SIGHUP was received; the current runs were asked to save and have ended.
            UserError: another process works on a trial.
        """
        free: SimpleQueue[str] = SimpleQueue()
        for device in devices:
            free.put(device)

        def work(trial: Trial) -> dict | TrialFailed | None:
            device = free.get()
            try:
                return None if self.stopping else self.run(trial, device)
            except TrialFailed as failure:
                return failure
            finally:
                free.put(device)

        with self._stop_on_signals(), ThreadPoolExecutor(len(devices)) as pool:
            futures: dict[Future, Trial] = {pool.submit(work, trial): trial for trial in trials}
            try:
                for future in as_completed(futures):
                    result = future.result()
                    if result is not None:
                        yield futures[future], result
            except BaseException:
                if not self.stopping:
                    self.stop()
                raise

    def run(self, trial: Trial, device: str) -> dict[str, Any]:
        """Train and evaluate one trial, continuing an earlier attempt; records and returns its result."""
        with explained(trial.folder):
            trial.folder.mkdir(parents=True, exist_ok=True)
            lock = open(trial.folder / LOCK, "w", encoding="utf-8")  # noqa: SIM115
        with lock:
            # The trial's processes inherit the lock, so they still hold it if the comparison is killed.
            if not try_lock(lock.fileno()):
                raise UserError(f"{trial.folder}: another process works on it; wait for it, or end it")
            record = trial.record()
            if not record:
                if list_snapshots(trial.snapshots):
                    raise UserError(
                        f"{trial.folder}: contains snapshots but no {RECORD} to identify their run; choose another "
                        "folder (--out), or remove this one"
                    )
                # Written before the first command, so that its settings are known even if everything is killed.
                record = {"identity": trial.identity(), "attempts": []}
                trial.write_record(record)
            if "result" not in record:
                record["result"] = self._carry_out(trial, record, device, lock.fileno())
                trial.write_record(record)
                self._tidy(trial)
            return record["result"]

    def stop(self) -> None:
        """Ask the running processes to save and end; a second request ends them at once."""
        self.stopping = True
        for process in list(self.running):
            process.send_signal(signal.SIGTERM)

    def probe(self, trial: Trial, device: str, iterations: int, folder: Path) -> float | None:
        """Seconds per iteration of a trial, from a few iterations in `folder`; None if the run failed."""
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        places = {"log_dir": str(folder), "snapshot_dir": str(folder / "snapshot")}
        words = self._words("train.py", device, "--overwrite")
        words += trial.arguments(niters_per_epoch=str(iterations), **PROBE_OVERRIDES, **places)
        with self._stop_on_signals(), open(folder / OUTPUT, "w", encoding="utf-8") as output:
            status = self._call(words, output)
        clear(folder / "snapshot")
        return median_step(folder) if status == 0 else None

    def _carry_out(self, trial: Trial, record: dict[str, Any], device: str, lock: int) -> dict[str, Any]:
        last = trial.C.nepochs - 1
        if last not in list_epochs(trial.snapshots):
            # Existing results belong to another attempt.
            for folder in (VALIDATION, TEST):
                (trial.folder / folder / RESULTS).unlink(missing_ok=True)
            words = self._words("train.py", device, "-c", "auto") + trial.arguments()
            self._attempt(trial, record, "train", words, lock)
        main, chosen, curve = MetricList(trial.C.eval_metrics).main, last, {}
        if trial.validation:
            source = {"eval_source": trial.validation.source, "eval_folder": trial.validation.folder}
            found = self._evaluate(trial, record, device, lock, range(last + 1), VALIDATION, **source)
            curve = {epoch: values[main] for epoch, values in found.items()}
            chosen = max(curve, key=lambda epoch: (curve[epoch], epoch))
        for epoch in dict.fromkeys((last, chosen)):
            test = self._evaluate(trial, record, device, lock, range(epoch, epoch + 1), TEST)
        result = {"last": {"epoch": last, **test[last]}}
        if trial.validation:
            result["best"] = {"epoch": chosen, **test[chosen], "validation": curve}
        run = json.loads((trial.snapshots / RUN_RECORD).read_text(encoding="utf-8"))
        metrics = read_metrics(trial.folder / TRAINING_METRICS, run.get("run"))
        seconds = {
            what: sum(attempt["seconds"] for attempt in record["attempts"] if attempt["what"] == what)
            for what in ("train", "evaluate")
        }
        return {
            **result,
            "labeled": trial.labeled,
            "iterations": trial.iterations,
            "train_seconds": round(seconds["train"], 1),
            "evaluate_seconds": round(seconds["evaluate"], 1),
            "step_seconds": median_step(trial.folder),
            "peak_memory_gib": max((entry["memory_gib"] for entry in metrics), default=None),
            "device": run["device"],
            "commit": run.get("commit"),
            "versions": run["versions"],
            "finished": datetime.now().isoformat(timespec="seconds"),
        }

    def _evaluate(
        self, trial: Trial, record: dict[str, Any], device: str, lock: int, epochs: range, folder: str, **source: str
    ) -> dict[int, dict[str, float | None]]:
        """Main values of the metrics by epoch.

        Epochs that have a snapshot and are not in `folder`/results.json yet are evaluated first.
        """
        metrics = MetricList(trial.C.eval_metrics)
        known = scores_by_epoch(trial.folder / folder, metrics)
        missing = [epoch for epoch in list_epochs(trial.snapshots) if epoch in epochs and epoch not in known]
        if missing:
            words = self._words("eval.py", device, "-e", f"{missing[0]}-{missing[-1]}")
            words += trial.arguments(log_dir=str(trial.folder / folder), **source)
            self._attempt(trial, record, "evaluate", words, lock)
        scores = scores_by_epoch(trial.folder / folder, metrics)
        if any(values[metrics.main] is None for values in scores.values()):
            where = source.get("eval_source", trial.C.eval_source)
            raise TrialFailed(f"{where}: no pixel has a label, so nothing can be compared")
        return scores

    def _attempt(self, trial: Trial, record: dict[str, Any], what: str, words: list[str], lock: int) -> None:
        """Run a command of a trial and record its duration. Raises TrialFailed."""
        begin = time.monotonic()
        attempt = {"what": what, "started": datetime.now().isoformat(timespec="seconds"), "command": words[1:]}
        record["attempts"].append(attempt)
        with open(trial.folder / OUTPUT, "a", encoding="utf-8") as output:
            output.write(f"$ {shlex.join(words)}\n")
            output.flush()
            status = self._call(words, output, lock)
        attempt |= {"seconds": round(time.monotonic() - begin, 1), "status": status}
        trial.write_record(record)
        if status != 0:
            lines = (trial.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
            end = " | ".join([line.strip() for line in lines if line.strip()][-MESSAGE_LINES:])
            raise TrialFailed(f"{what} ended with status {status}, see {trial.folder / OUTPUT}: {end}")

    def _call(self, words: list[str], output, *inherited: int) -> int:
        if self.stopping:
            return -signal.SIGTERM
        # In its own session: Ctrl-C reaches only this process, which passes it on once.
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
            start_new_session=True,
        )
        self.running.add(process)
        try:
            if self.stopping:
                process.send_signal(signal.SIGTERM)
            return process.wait()
        finally:
            process.wait()  # a signal may have interrupted the first wait; the process received it, too, and is saving
            self.running.discard(process)

    def _words(self, script: str, device: str, *options: str) -> list[str]:
        return [sys.executable, str(self.file.with_name(script)), "-f", self.file.name, "-d", device, *options]

    def _tidy(self, trial: Trial) -> None:
        """Remove the snapshots that are not to be kept."""
        if self.keep == "none":
            clear(trial.snapshots)
        elif self.keep == "last":
            for epoch, path in list_epochs(trial.snapshots).items():
                if epoch < trial.C.nepochs - 1 or (trial.snapshots / LAST).is_file():
                    path.unlink()

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """Context in which SIGINT, SIGTERM and SIGHUP stop the runs, then end the command; SIGUSR1 makes them save."""

        def handle(signum: int, _) -> None:
            self.stop()
            raise Stopped("the same command continues from here", SIGNAL_BASE + signum)

        def pass_on(signum: int, _) -> None:
            for process in list(self.running):
                process.send_signal(signum)

        previous = {signum: signal.signal(signum, handle) for signum in heeded()}
        previous[SAVING] = signal.signal(SAVING, pass_on)
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)


def scores_by_epoch(folder: Path, metrics: MetricList) -> dict[int, dict[str, float | None]]:
    """Main value of each metric by name, for each epoch that has all of them in `folder`/results.json."""
    return {
        entry["epoch"]: {name: entry[name] for name in metrics.mains}
        for entry in read_results(folder / RESULTS)
        if metrics.mains.keys() <= entry.keys()
    }


def median_step(folder: Path) -> float | None:
    """Median seconds per iteration of the run in `folder`, without the first half, which includes warm-up."""
    seconds = [entry["step_seconds"] for entry in read_metrics(folder / TRAINING_METRICS)]
    return statistics.median(seconds[len(seconds) // 2 :]) if seconds else None
