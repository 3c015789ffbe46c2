"""Labels as people keep them become codes, numbers, or several labels that may hold together."""

from typing import Any

import numpy as np
import pytest

from models.errors import DecipherError
from training.target import read_target

NAN = float("nan")


def singles(n: int) -> list[str]:
    return [f"patient {i}" for i in range(n)]


def test_several_columns_are_labels_known_or_not() -> None:
    values = {"a": [1, 0, NAN, 1, 0], "b": ["no", "yes", "unknown", "yes", "no"], "c": [False, True, None, False, True]}
    found = read_target(values, singles(5), "a,b,c")
    assert (found.kind, found.classes, found.n_missing) == ("multilabel", ["a", "b", "c"], 1)
    assert found.rows.tolist() == [0, 1, 3, 4]
    np.testing.assert_array_equal(found.values, [[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]])


def test_what_is_unknown_of_one_label_stays_known_of_the_others() -> None:
    found = read_target({"a": [1, 0, None, 1, 0], "b": [None, 0, 1, 1, 0]}, singles(5), "a,b")
    assert found.rows.tolist() == [0, 1, 2, 3, 4] and found.n_missing == 0
    np.testing.assert_array_equal(found.values, [[1, NAN], [0, 0], [NAN, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    "values",
    [
        [["oedema"], ["oedema", "infarct"], [], None, ["infarct"], []],
        ["oedema", "oedema; infarct", "none", "unknown", " infarct ;", ";"],
    ],
)
def test_lists_and_text_parted_by_semicolons_are_labels(values: list[Any]) -> None:
    found = read_target(values, singles(6), "findings")
    assert (found.kind, found.classes, found.n_missing) == ("multilabel", ["infarct", "oedema"], 1)
    assert found.rows.tolist() == [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(found.values, [[0, 1], [1, 1], [0, 0], [1, 0], [0, 0]])


def test_labels_of_too_few_patients_are_left_out_and_told() -> None:
    values = {"a": [1, 1, 0, 0], "once": [1, 0, 0, 0], "always": [1, 1, 1, 1], "one patient": [1, 1, 0, 0]}
    found = read_target({name: values[name] for name in ("a", "once", "always")}, singles(4), "t")
    assert found.classes == ["a"] and found.notes == [
        "left out, fewer than 2 patients with it or without: once, always"
    ]
    with pytest.raises(DecipherError, match="two patients with it and two without") as error:
        read_target({"one patient": values["one patient"]}, ["p", "p", "q", "r"], "t")
    assert error.value.hint


def test_a_label_of_three_values_is_told() -> None:
    with pytest.raises(DecipherError, match="'grade' has 3 values") as error:
        read_target({"a": [0, 1, 0], "grade": [1, 2, 3]}, singles(3), "a,grade")
    assert "--task grade" in error.value.hint


def test_what_two_of_a_class_are_needed_of_is_called_by_its_name() -> None:
    with pytest.raises(DecipherError, match="two groups of 'site' each; only 'no' has that"):
        read_target(["no", "no", "yes", "yes"], ["A", "B", "B", "B"], "lesion", "groups of 'site'")
