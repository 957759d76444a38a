"""Work in threads: in order, and never far ahead of the consumer."""

import threading
import time

import pytest

from furnace.utils import background, progress
from furnace.utils.background import BACKLOG, BackgroundWriter, ahead


def test_few_items_are_read_ahead(monkeypatch):
    monkeypatch.setattr(background, "thread_count", lambda: 2)
    begun, taken = [], 0
    for item, value in ahead(lambda item: begun.append(item) or -item, range(60)):
        assert (item, value) == (taken, -taken)
        taken += 1
        time.sleep(0.002)
        assert len(begun) <= taken + BACKLOG * 2 + 1
    assert taken == 60 and len(begun) == 60


def test_few_items_wait_to_be_written(monkeypatch):
    monkeypatch.setattr(background, "thread_count", lambda: 2)
    release, done = threading.Event(), []
    with BackgroundWriter() as write:
        for number in range(BACKLOG * 2):
            write(lambda number: release.wait() and done.append(number), number)
        assert not done
        threading.Timer(0.2, release.set).start()
        write(done.append, -1)
        assert done, "one more than may wait has waited for the first"
    assert sorted(done) == [-1, *range(BACKLOG * 2)]


@pytest.mark.parametrize("cores, threads", [(1, 1), (3, 3), (10**6, progress.MAX_THREADS), (None, 1)])
def test_threads_are_those_of_the_machine_within_bounds(monkeypatch, cores, threads):
    monkeypatch.setattr(progress.os, "cpu_count", lambda: cores)
    assert progress.thread_count() == threads
