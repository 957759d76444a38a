"""Processes meet those of their own attempt, even if the store contains older entries."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from furnace.engine import meeting
from furnace.engine.meeting import meet
from furnace.utils.errors import UserError


def all_meet(store: HashStore, *restarts: int) -> tuple[str, int]:
    """Let processes meet, one for each known number of `restarts`; returns the name and number that they agree on."""
    count = len(restarts)
    with ThreadPoolExecutor(count) as pool:
        found = set(pool.map(lambda number: meet(store, number, count, restarts[number]), range(count)))
    (agreed,) = found
    return agreed


def test_all_processes_agree_on_a_new_name_and_number_per_attempt() -> None:
    store = HashStore()
    attempts = [all_meet(store, 0, 0, 0), all_meet(store, 0, 1, 0), all_meet(store, 0, 1, 0), all_meet(store, 0, 0)]
    assert len({name for name, _ in attempts}) == 4
    assert [restarts for _, restarts in attempts] == [0, 1, 2, 3]


def test_on_a_new_store_a_process_that_knows_of_restarts_tells_the_others() -> None:
    assert all_meet(HashStore(), 0, 2)[1] == 2


@pytest.mark.parametrize("missing", [0, 2])
def test_a_process_that_never_came_is_named(monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.2)
    store = HashStore()

    def told(number: int) -> str:
        with pytest.raises(UserError) as caught:
            meet(store, number, 4, 0)
        return str(caught.value)

    with ThreadPoolExecutor(3) as pool:
        for text in pool.map(told, {0, 1, 2, 3} - {missing}):
            assert text.startswith(f"process {missing} of 4 did not join")


@pytest.mark.parametrize(("comes", "missing"), [(0, "1"), (1, "0")])
def test_processes_of_an_interrupted_attempt_are_missing(monkeypatch, comes: int, missing: str) -> None:
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.2)
    store = HashStore()
    store.set(f"present {1 - comes}", "0 killed")  # from an interrupted attempt
    with pytest.raises(UserError, match=f"^process {missing} of 2 did not join"):
        meet(store, comes, 2, 0)
