"""Folders made once: whole, never twice, and one of two makers wins."""

from pathlib import Path

import pytest

from training.once import made_once


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    calls = []

    def write(part: Path) -> None:
        calls.append(part)
        (part / "a").write_text(str(len(calls)))

    for _ in range(2):
        assert (made_once(tmp_path / "cache" / "made", write) / "a").read_text() == "1"
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["made"]


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken(part: Path) -> None:
        (part / "half").write_text("x")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        made_once(tmp_path / "made", broken)
    assert not list(tmp_path.iterdir())


def test_who_comes_second_takes_the_first_ones(tmp_path: Path) -> None:
    def overtaken(part: Path) -> None:
        (part / "a").write_text("second")
        made_once(tmp_path / "made", lambda first: (first / "a").write_text("first") and None)

    with pytest.MonkeyPatch.context() as patch:
        pids = iter([1, 2])
        patch.setattr("os.getpid", lambda: next(pids))
        assert (made_once(tmp_path / "made", overtaken) / "a").read_text() == "first"
