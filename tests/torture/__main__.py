"""Torture: train on a small toy set, inject faults at random, and report their outcomes.

After every fault, training continues with `-c auto`. A finished run must have the weights of an undisturbed run, bit
for bit; then the next run begins.
"""

import itertools
import random
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console

from furnace.utils.arguments import number
from furnace.utils.errors import run
from furnace.utils.terminal import Table, open_console
from tests.torture.faults import FAULTS
from tests.torture.victim import Failed, Victim, same_weights

RUNS = "runs finished with the weights of an undisturbed one"


class Torture:
    """Faults in random order, and their outcomes.

    Args:
        victim: the training run.
        seed: for the order and for the faults' random choices.
        names: faults to choose from.
        console: for the report.
    """

    def __init__(self, victim: Victim, seed: int, names: list[str], console: Console):
        self.victim, self.rng, self.names, self.console = victim, random.Random(seed), names, console
        self.outcomes: dict[str, Counter] = defaultdict(Counter)
        self.failures: list[str] = []

    def run(self, seconds: float, rounds: int | None = None) -> None:
        """Inject faults until the time is over or, if given, for a number of rounds; then let the last run finish.

        A round contains each fault once. The undisturbed run comes first and does not count as time, so that a slow
        machine injects faults, too.
        """
        self.reference = self.victim.run_undisturbed()
        end = time.monotonic() + seconds
        turns = itertools.count() if rounds is None else range(rounds)
        order = (name for _ in turns for name in self.rng.sample(self.names, len(self.names)))
        for name in order:
            if rounds is None and time.monotonic() > end:
                break
            self.inject(name)
        self.victim.start()
        self._attempt("the rest without a fault", lambda: f"status {self.victim.end().expect(0).status}")
        self._compare_if_finished()

    def inject(self, name: str) -> None:
        """Inject one fault and record its outcome; repeat this if the run had finished before the fault."""
        self._attempt(name, lambda: FAULTS[name](self.victim, self.rng))
        while self._compare_if_finished():
            self._attempt(name, lambda: FAULTS[name](self.victim, self.rng))

    def _attempt(self, name: str, fault) -> None:
        try:
            outcome = fault()
        except Failed as error:
            outcome = "NOT SURVIVED"
            self.failures.append(f"{name}: {error}")
            if self.victim.process:
                self.victim.process.kill()
                self.victim.process.join()
            self.victim.reset()
        self.outcomes[name][outcome] += 1
        self.console.print(f"{name}: {outcome}", highlight=False, soft_wrap=True)

    def _compare_if_finished(self) -> bool:
        if self.victim.process is None or self.victim.process.exitcode != 0:
            return False
        same = same_weights(self.victim.result(), self.reference)
        self.outcomes[RUNS]["bit for bit" if same else "NOT SURVIVED: other weights"] += 1
        if not same:
            self.failures.append(f"{RUNS}: other weights")
        self.victim.reset()
        return True

    def table(self) -> Table:
        """Table of faults, number of injections, and outcomes."""
        table = Table("fault", "injected", "outcomes", title="torture", title_justify="left")
        for name, outcomes in sorted(self.outcomes.items()):
            text = "; ".join(f"{count} x {outcome}" for outcome, count in outcomes.most_common())
            table.add_row(name, str(outcomes.total()), text)
        return table


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes",
        type=number("--minutes", 0, float),
        default=10,
        help="how long (default: 10); a run is then finished",
    )
    parser.add_argument(
        "--rounds", type=number("--rounds", 1), help="each fault so many times, however long that takes"
    )
    parser.add_argument("--seed", type=number("--seed", 0), default=0, help="another seed, another order (default: 0)")
    parser.add_argument("--only", choices=FAULTS, action="append", help="this fault, and those of further --only")
    args = parser.parse_args(argv)
    console = open_console()
    with tempfile.TemporaryDirectory(prefix="torture_") as folder:
        torture = Torture(Victim(Path(folder)), args.seed, args.only or list(FAULTS), console)
        torture.run(60 * args.minutes, args.rounds)
    console.print(torture.table())
    for failure in torture.failures:
        console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if torture.failures else 0


if __name__ == "__main__":
    run(main)
