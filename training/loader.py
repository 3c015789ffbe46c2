"""Batches made ready ahead of the step that takes them, in threads: torch and NumPy let go of the interpreter's lock."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")


def ahead(make: Callable[[int], Batch], numbers: range, workers: int) -> Iterator[Batch]:
    """make(n) for each of `numbers`, in order, up to `workers` of them at work before they are asked for; 0: on demand."""
    if workers < 1:
        yield from map(make, numbers)
        return
    with ThreadPoolExecutor(workers, "loader") as pool:
        waiting = deque(pool.submit(make, n) for n in numbers[:workers])
        try:
            for n in range(len(numbers)):
                batch = waiting.popleft().result()
                if n + workers < len(numbers):
                    waiting.append(pool.submit(make, numbers[n + workers]))
                yield batch
        finally:
            for future in waiting:
                future.cancel()
