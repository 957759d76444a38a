"""Read files ahead and write them in the background, in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from furnace.utils.progress import thread_count

BACKLOG = 4  # calls per thread that may wait
Item = TypeVar("Item")
Value = TypeVar("Value")


def ahead(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[tuple[Item, Value]]:
    """Yield each item with `function(item)`, in order; threads compute the next ones ahead."""
    with ThreadPoolExecutor(thread_count()) as pool:
        waiting: deque[tuple[Item, Future]] = deque()
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > BACKLOG * thread_count():
                first, future = waiting.popleft()
                yield first, future.result()
        for item, future in waiting:
            yield item, future.result()


class BackgroundWriter:
    """Run `background(function, *args)` in threads; at the end of the `with` block all calls are done.

    An error of a call is raised by a later call or at the end. The backlog is bounded.
    """

    def __enter__(self) -> "BackgroundWriter":
        self.pool = ThreadPoolExecutor(thread_count())
        self.waiting: deque[Future] = deque()
        return self

    def __call__(self, function: Callable, *args) -> None:
        self.waiting.append(self.pool.submit(function, *args))
        while len(self.waiting) > BACKLOG * thread_count():
            self.waiting.popleft().result()

    def __exit__(self, error_type, *_) -> None:
        self.pool.shutdown()
        if error_type is None:
            for future in self.waiting:
                future.result()
