"""Boxes with scores against hand-made lesions, and the curves of many cases against a computation by plain loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.boxes import RATES, average_precision, detection_figures, froc, hits_of, scored_boxes
from training.decode import summary

AFFINE = np.diag([2.0, 1.0, 0.5, 1.0])
ONE = np.ones((1, 1))


def box(low: tuple[int, int, int], high: tuple[int, int, int], score: float = 1.0) -> dict[str, Any]:
    return {"low": list(low), "high": list(high), "score": score}


def test_boxes_of_a_map_have_the_peak_as_score() -> None:
    values = np.zeros((12, 10, 8), np.float32)
    values[1:4, 2:4, 1:3] = 0.6
    values[2, 3, 2] = 0.85
    values[8, 8, 6] = 0.95
    values[6, 1, 1] = 0.5
    best, second = scored_boxes(values, 0.5, AFFINE)
    assert (best["score"], best["low"], best["high"]) == (0.95, [8, 8, 6], [9, 9, 7])
    assert (second["score"], second["low"], second["high"]) == (0.85, [1, 2, 1], [4, 4, 3])
    assert second["volume_ml"] == pytest.approx(12 * 1.0 / 1000) and second["extent_mm"] == [6.0, 2.0, 1.0]
    assert second["centre_mm"] == [4.0, 2.5, 0.75]


def test_an_iou_of_a_tenth_is_a_hit() -> None:
    lesion = box((0, 0, 0), (10, 1, 1))
    assert hits_of([box((9, 0, 0), (10, 1, 1))], [lesion]) == [True], "1 of 10 voxels"
    assert hits_of([box((9, 0, 0), (11, 1, 1))], [lesion]) == [False], "1 of 11 voxels"
    assert hits_of([], [lesion]) == [] and hits_of([lesion], []) == [False]


def test_a_lesion_is_hit_once_by_the_highest_score() -> None:
    lesions = [box((0, 0, 0), (4, 4, 4)), box((10, 0, 0), (14, 4, 4))]
    found = [box((0, 0, 0), (4, 4, 3), 0.9), box((0, 0, 0), (4, 4, 4), 0.8), box((10, 0, 0), (13, 4, 4), 0.7)]
    assert hits_of(found, lesions) == [True, False, True]


def test_a_box_over_two_lesions_takes_the_one_it_overlaps_most() -> None:
    lesions = [box((0, 0, 0), (4, 4, 4)), box((4, 0, 0), (10, 4, 4))]
    assert hits_of([box((2, 0, 0), (10, 4, 4), 0.9), box((0, 0, 0), (4, 4, 4), 0.8)], lesions) == [True, True]


def test_figures_of_a_case() -> None:
    truth = np.zeros((20, 8, 8), bool)
    truth[2:5, 2:5, 2:5] = truth[12:15, 2:5, 2:5] = True
    values = np.where(truth, 0.7, 0.1).astype(np.float32)
    values[12:15] = 0.1
    values[18, 7, 7] = 0.9
    figures = detection_figures(truth, values, 0.5, AFFINE)
    assert figures["scores"] == pytest.approx([0.9, 0.7]) and figures["hits"] == [False, True]
    assert [figures[f"{kind}_lesions"] for kind in ("true", "false", "missed")] == [1, 1, 1]


def test_curves_by_hand() -> None:
    """Three lesions, one never hit; by falling score: hit, false, hit, over two volumes."""
    rows = [case([0.9, 0.7], [True, False], 2), case([0.5], [True], 1)]
    assert average_precision(rows, np.ones((1, 2)))[0] == pytest.approx((1 / 1 + 2 / 3) / 3)
    assert froc(rows, np.ones((1, 2)))[0] == pytest.approx(2 / 3), "one false box on two volumes is within every rate"
    crowded = [case([0.9, 0.8, 0.7, 0.6], [False, False, True, True], 2)]
    assert froc(crowded, ONE)[0] == pytest.approx((0 + 0 + 1 + 1 + 1) / 5)


def case(scores: list[float], hits: list[bool], lesions: int) -> dict[str, Any]:
    return {"scores": scores, "hits": hits, "true_lesions": sum(hits), "false_lesions": len(hits) - sum(hits),
            "missed_lesions": lesions - sum(hits)}  # fmt: skip


@st.composite
def many(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        hits = draw(st.lists(st.booleans(), max_size=6))
        scores = draw(
            st.lists(st.sampled_from([0.5, 0.6, 0.75, 0.8, 0.9, 1.0]), min_size=len(hits), max_size=len(hits))
        )
        rows.append(case(scores, hits, sum(hits) + draw(st.integers(0, 3))))
    return rows


def plainly(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Average precision and mean sensitivity of cases, threshold by threshold."""
    lesions = sum(row["true_lesions"] + row["missed_lesions"] for row in rows)
    if not lesions:
        return float("nan"), float("nan")
    points = []
    for threshold in sorted({score for row in rows for score in row["scores"]}, reverse=True):
        kept = [
            hit for row in rows for score, hit in zip(row["scores"], row["hits"], strict=True) if score >= threshold
        ]
        points.append((sum(kept), len(kept) - sum(kept)))
    precision, before = 0.0, 0
    for hit, false in points:
        precision += hit / (hit + false) * (hit - before)
        before = hit
    best = [max([hit for hit, false in points if false / len(rows) <= rate], default=0) for rate in RATES]
    return precision / lesions, sum(best) / len(RATES) / lesions


@settings(max_examples=60, deadline=None)
@given(many(), st.data())
def test_curves_are_those_of_plain_loops(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    drawn = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))), float)
    weights = np.stack([np.ones(len(rows)), drawn])
    repeated = [row for row, times in zip(rows, drawn.astype(int), strict=True) for _ in range(times)]
    for found, expected in zip(
        zip(average_precision(rows, weights), froc(rows, weights), strict=True),
        (plainly(rows), plainly(repeated)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_figures_of_many_cases_with_intervals() -> None:
    rows = [case([0.9, 0.7], [True, False], 2), case([0.5], [True], 1), case([0.8], [False], 0), case([], [], 0)]
    who = np.array(["a", "b", "c", "d"])
    found = {
        name: summary(name, rows, who) for name in ("sensitivity", "false_positives", "found", "false_alarms", "froc")
    }
    values = {name: figure["value"] for name, figure in found.items()}
    assert values["sensitivity"] == pytest.approx(2 / 3) and values["false_positives"] == pytest.approx(2 / 4)
    assert (values["found"], values["false_alarms"]) == (1.0, 0.5)
    for figure in found.values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert summary("average_precision", rows[2:], who[2:]) == {"value": None, "low": None, "high": None}
