"""Many tasks: in order, on other processes where they are many, and a task that kills its process costs its own answer only."""

import os

import pytest

from index.pool import CHUNK, each


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
    assert list(each(square, range(5), lost)) == [(n * n, os.getpid()) for n in range(5)]


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor")
def test_many_tasks_run_elsewhere_in_order() -> None:
    found = list(each(square, range(3 * CHUNK + 1), lost, few=10))
    assert [value for value, _ in found] == [n * n for n in range(3 * CHUNK + 1)]
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor")
def test_a_crash_costs_one_answer() -> None:
    assert list(each(fragile, range(3 * CHUNK), lost, few=10)) == [-n if n % 300 == 7 else n for n in range(3 * CHUNK)]


def test_an_error_of_a_task_is_raised() -> None:
    with pytest.raises(ValueError, match="0"):
        list(each(refuse, range(2), lost))
    with pytest.raises(ValueError, match="0"):
        list(each(refuse, range(20), lost, few=10))
