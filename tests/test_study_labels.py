"""Labels of studies: what reports affirm where the organ was imaged, and what a column says."""

import numpy as np
import polars as pl
import pytest

from models.errors import DecipherError
from models.fusion import Target
from training.study_labels import label_matrix, study_findings, targets_of


def rows(*told: tuple[str, str, str | None]) -> pl.DataFrame:
    studies, regions, reports = zip(*told, strict=True)
    return pl.DataFrame({"study_id": studies, "body_region": regions, "report": reports, "diagnosis": reports})


CYST, TEAR = Target("cyst", "liver"), Target("meniscal tear", "knee")


def test_what_is_not_imaged_is_not_known() -> None:
    found = study_findings(
        rows(
            ("a", "abdomen", "There is a cyst in the liver, measuring 12 mm."),
            ("b", "abdomen", "No focal hepatic lesion."),
            ("c", "knee", "There is a meniscal tear of the medial meniscus."),
            ("d", "knee", None),
        )
    )
    assert list(found) == ["a", "b", "c"]
    labels, known = label_matrix(list(found.values()), [CYST, TEAR])
    np.testing.assert_array_equal(labels, [[1, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal(known, [[1, 0], [1, 0], [0, 1]])


def test_the_series_of_a_study_speak_together() -> None:
    found = study_findings(rows(("a", "abdomen", "A cyst in the liver."), ("a", "abdomen", "No free fluid.")))
    assert CYST in found["a"].affirmed and len(found) == 1


def test_a_column_of_findings() -> None:
    table = rows(
        ("a", "brain", "stroke; tumour"), ("b", "brain", "healthy"), ("c", "brain", "unknown"), ("d", "knee", "stroke")
    )
    found = study_findings(table, "diagnosis")
    assert found["a"].affirmed == {Target("stroke", "brain"), Target("tumour", "brain")}
    assert found["b"].affirmed == frozenset() and "c" not in found
    assert targets_of(found.values(), 1) == (Target("stroke", "brain"), Target("tumour", "brain"))


def test_what_cannot_be_learnt_is_told() -> None:
    with pytest.raises(DecipherError, match="No label column 'mood'"):
        study_findings(rows(("a", "brain", "x")), "mood")
    found = study_findings(rows(("a", "abdomen", "A cyst in the liver."), ("b", "abdomen", "No free fluid.")))
    with pytest.raises(DecipherError, match=r"No finding is in 2 studies.*liver cyst \(1\)"):
        targets_of(found.values(), 2)
    assert targets_of(found.values(), 1) == (CYST,)
