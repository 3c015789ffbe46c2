"""Many small tasks on all processors, results in order.

Design: few tasks run in this process, since starting others takes longer. Processes are spawned, never forked: a fork copies
locks that other threads hold. A task that kills its process (a decoder that hostile bytes crash) costs its own answer only:
its chunk is run again item by item, and `crashed` answers for the item that does it again.
"""

import gc
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")
CHUNK = 256
FEW = 1024
_task: Callable[[Any], Any]


def each(task: Callable[[A], B], items: Sequence[A], crashed: Callable[[A], B], few: int = FEW) -> Iterator[B]:
    """task(item) of every item, in order. Tasks, items and results are pickled where there are more than `few` items."""
    processes = os.cpu_count() or 1
    if len(items) <= few or processes == 1 or not _can_start():
        yield from map(task, items)
        return
    left = deque(items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
    while left:
        for results in _until_a_crash(task, list(left), processes):
            yield from results
            left.popleft()
        if left:
            yield from _one_by_one(task, left.popleft(), crashed)


def _can_start() -> bool:
    """False where a new process has nothing to start from: a main program that was typed or piped in."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is None or Path(main).exists()


def _until_a_crash(task: Callable[[A], B], chunks: list[Sequence[A]], processes: int) -> Iterator[list[B]]:
    with _pool(task, processes) as pool:
        futures = [pool.submit(_run, chunk) for chunk in chunks]
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool:
            return
        finally:
            pool.shutdown(cancel_futures=True)


def _one_by_one(task: Callable[[A], B], items: Sequence[A], crashed: Callable[[A], B]) -> Iterator[B]:
    left = deque(items)
    while left:
        for results in _until_a_crash(task, [[item] for item in left], 1):
            yield from results
            left.popleft()
        if left:
            yield crashed(left.popleft())


def _pool(task: Callable[[A], B], processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, get_context("spawn"), _begin, (task,))


def _begin(task: Callable[[Any], Any]) -> None:
    """A worker keeps the task, and leaves Ctrl-C to the process that started it.

    It collects no garbage: what a task leaves behind is freed as its references go, and the search for cycles costs a tenth.
    """
    global _task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    _task = task


def _run(items: Sequence[Any]) -> list[Any]:
    return [_task(item) for item in items]
