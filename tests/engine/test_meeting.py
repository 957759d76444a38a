"""Processes meet those of their own attempt, whatever a store remembers."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from furnace.engine import meeting
from furnace.engine.meeting import meet
from furnace.utils.errors import UserError


def all_meet(store: HashStore, *restarts: int) -> tuple[str, int]:
    """Let as many processes meet as there are `restarts`, that each knows of; returns what they agree on."""
    count = len(restarts)
    with ThreadPoolExecutor(count) as pool:
        found = set(pool.map(lambda number: meet(store, number, count, restarts[number]), range(count)))
    (agreed,) = found
    return agreed


def test_each_attempt_has_a_name_of_its_own_and_a_number_that_all_know() -> None:
    store = HashStore()
    attempts = [all_meet(store, 0, 0, 0), all_meet(store, 0, 1, 0), all_meet(store, 0, 1, 0), all_meet(store, 0, 0)]
    assert len({name for name, _ in attempts}) == 4
    assert [restarts for _, restarts in attempts] == [0, 1, 2, 3]


def test_on_a_new_store_a_process_that_knows_of_restarts_tells_the_others() -> None:
    assert all_meet(HashStore(), 0, 2)[1] == 2


@pytest.mark.parametrize(("comes", "missing"), [(0, "1"), (1, "0, 1")])
def test_processes_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch, comes: int, missing: str) -> None:
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.2)
    store = HashStore()
    store.set(f"present {1 - comes}", "0 killed")  # of an attempt that was cut
    with pytest.raises(UserError, match=f"^process {missing} of 2 has not come"):
        meet(store, comes, 2, 0)
