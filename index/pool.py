"""Many small tasks on all processors, results in order.

Design: of few items, a second's work is done in this process first, since starting others takes as long. Processes are
spawned, never forked: a fork copies locks that other threads hold. A task that kills its process (a decoder that hostile
bytes crash) costs its own answer only: its chunk is run again item by item, and `crashed` answers for the item that does it
again.
"""

import gc
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")
Task = Callable[[Any], Any]
CHUNK = 256
MANY = 4096
PATIENCE_S = 1.0
_tasks: tuple[Task, ...]


class Workers:
    """Processes that know `tasks`, started for MANY items or for what takes longer than `patience_s`, until `stop`.

    Tasks, items and results are pickled; tasks once for each process.
    """

    def __init__(self, *tasks: Task, patience_s: float = PATIENCE_S) -> None:
        self.tasks = tasks
        self.patience_s = patience_s
        self.processes = os.cpu_count() or 1
        self.pool: ProcessPoolExecutor | None = None
        self.began = time.monotonic()

    def each(self, task: Callable[[A], B], items: Sequence[A], crashed: Callable[[A], B]) -> Iterator[B]:
        """task(item) of every item, in order; `task` is one of the tasks."""
        done = 0
        while done < len(items) and not self._should_start(len(items) - done):
            yield task(items[done])
            done += 1
        left = deque(items[start : start + CHUNK] for start in range(done, len(items), CHUNK))
        while left:
            for results in self._until_a_crash(task, list(left)):
                yield from results
                left.popleft()
            if left:
                yield from self._one_by_one(task, left.popleft(), crashed)

    def _should_start(self, left: int) -> bool:
        """True once other processes run, or this one has had its time and enough is left for all."""
        if self.pool:
            return True
        patient = left < MANY and time.monotonic() - self.began < self.patience_s
        return left >= CHUNK and not patient and self.processes > 1 and _can_start()

    def _one_by_one(self, task: Callable[[A], B], items: Sequence[A], crashed: Callable[[A], B]) -> Iterator[B]:
        left = deque(items)
        while left:
            for results in self._until_a_crash(task, [[item] for item in left], 1):
                yield from results
                left.popleft()
            if left:
                yield crashed(left.popleft())
        self.stop()

    def _until_a_crash(
        self, task: Callable[[A], B], chunks: list[Sequence[A]], processes: int | None = None
    ) -> Iterator[list[B]]:
        self.pool = self.pool or ProcessPoolExecutor(
            processes or self.processes, get_context("spawn"), _begin, (self.tasks,)
        )
        futures = [self.pool.submit(_run, self.tasks.index(task), chunk) for chunk in chunks]
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool:
            self.stop()

    def stop(self) -> None:
        """End the processes; what they were not asked for yet stays undone."""
        if self.pool:
            self.pool.shutdown(cancel_futures=True)
        self.pool = None


def _can_start() -> bool:
    """False where a new process has nothing to start from: a main program that was typed or piped in."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is None or Path(main).exists()


def _begin(tasks: tuple[Task, ...]) -> None:
    """A worker keeps the tasks, and leaves Ctrl-C to the process that started it.

    It collects no garbage: what a task leaves behind is freed as its references go, and the search for cycles costs a tenth.
    """
    global _tasks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    _tasks = tasks


def _run(place: int, items: Sequence[Any]) -> list[Any]:
    return [_tasks[place](item) for item in items]
