"""Many tasks: in order, on other processes where they are many, and a task that kills its process costs its own answer only."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from index.pool import CHUNK, PATIENCE_S, Workers


def each(task: Callable[[int], Any], items: Sequence[int], patience_s: float = PATIENCE_S) -> list[Any]:
    workers = Workers(square, task, patience_s=patience_s)
    found = list(workers.each(task, items, lost))
    workers.stop()
    return found


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def fragile(number: int) -> int:
    if number % 300 == 7:
        os._exit(1)
    return number


def lost(number: int) -> int:
    return -number


def refuse(number: int) -> int:
    raise ValueError(number)


def test_few_tasks_stay_in_this_process() -> None:
    assert each(square, range(5)) == [(n * n, os.getpid()) for n in range(5)]


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor")
def test_many_tasks_run_elsewhere_in_order() -> None:
    found = each(square, range(3 * CHUNK + 1), patience_s=0)
    assert [value for value, _ in found] == [n * n for n in range(3 * CHUNK + 1)]
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor")
def test_a_crash_costs_one_answer() -> None:
    assert each(fragile, range(3 * CHUNK), patience_s=0) == [-n if n % 300 == 7 else n for n in range(3 * CHUNK)]


def test_an_error_of_a_task_is_raised() -> None:
    with pytest.raises(ValueError, match="0"):
        each(refuse, range(2))
    with pytest.raises(ValueError, match="0"):
        each(refuse, range(2 * CHUNK), patience_s=0)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor")
def test_two_tasks_share_their_processes() -> None:
    workers = Workers(square, fragile, patience_s=0)
    before = {process for _, process in workers.each(square, range(8 * CHUNK), lost)}
    assert list(workers.each(fragile, range(3), lost)) == [0, 1, 2]
    after = {process for _, process in workers.each(square, range(8 * CHUNK), lost)}
    assert len(before | after) <= (os.cpu_count() or 1), "which of them works is chance; that there are no more is not"
    workers.stop()
