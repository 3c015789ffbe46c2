"""Hits on paper: aligned, no longer than the terminal, the end of a path kept, one JSON object a line."""

import json

import pytest

from decipher_cli.hits import cells_of, lines, percent, put_hits_json, tail
from index.search import Hit

RECORD = {
    "series_id": "00ff", "path": "site-a/sub-0001/anat/sub-0001_T2w.nii.gz", "part": None, "sequence": "T2",
    "body_region": "brain", "plane": "axial", "age_years": 34.4, "sex": "F",
}  # fmt: skip


def hit(rank: int, score: float | None = 0.5, standing: float | None = 0.999, **more: object) -> Hit:
    return Hit(rank, score, RECORD | more, standing)


def test_cells_say_what_the_record_says():
    assert cells_of(hit(1)) == ("1", "0.50", "99 %", "T2", "brain", "axial", "F 34", RECORD["path"])
    bare = Hit(2, None, {"series_id": "1", "path": "x.nii", "part": "t=3"})
    assert cells_of(bare) == ("2", "-", "-", "-", "-", "-", "-", "x.nii [t=3]")
    told = hit(1, conflict={"field": "sequence", "suggested": "FLAIR"})
    assert cells_of(told)[3] == "T2 (FLAIR?)"


@pytest.mark.parametrize("room", [80, 120])
def test_lines_fit_the_terminal_and_keep_the_end_of_the_path(room):
    made = list(lines([hit(1), hit(10, path="a/" * 80 + "T1.nii.gz")], room))
    assert max(map(len, made)) <= room
    assert made[2].endswith("T2w.nii.gz") and made[3].endswith("T1.nii.gz")
    assert made[2].index("T2 ") == made[3].index("T2 "), "columns are aligned"


def test_without_a_terminal_nothing_is_cut():
    assert list(lines([hit(1)], None))[2].endswith(RECORD["path"])
    assert len(list(lines([], None))) == 2


def test_tails_and_shares():
    assert tail("abcdef", 4) == "…def" and tail("abc", 3) == "abc"
    assert [percent(one) for one in (0.0, 0.9999, 1.0, None)] == ["0 %", "99 %", "100 %", "-"]


def test_json_has_the_keys_and_what_a_conflict_adds(capsys):
    put_hits_json([hit(1), hit(2, conflict={"field": "sequence", "suggested": "T1"})])
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["standing"] == 0.999 and first["path"] == RECORD["path"] and "suggested" not in first
    assert second["suggested"] == "T1"
