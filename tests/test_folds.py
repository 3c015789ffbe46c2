from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DecipherError
from training.folds import grouped_folds

tables = st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abcd")), min_size=2, max_size=60).filter(
    lambda rows: len({group for group, _ in rows}) > 1
)


@settings(max_examples=150, deadline=None)
@given(tables, st.integers(2, 7), st.integers(0, 5))
def test_a_group_lies_in_one_fold_and_each_row_is_tested_once(
    table: list[tuple[int, str]], n_folds: int, seed: int
) -> None:
    groups, strata = [f"patient {g}" for g, _ in table], [s for _, s in table]
    folds = grouped_folds(groups, n_folds, seed, strata)
    assert len(folds) == min(n_folds, len(set(groups)))
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(table)))
    for train, test in folds:
        assert len(test) and not {groups[i] for i in train} & {groups[i] for i in test}
        assert sorted([*train, *test]) == list(range(len(table)))


@settings(max_examples=60, deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_folds_follow_from_names_not_from_row_order(table: list[tuple[int, str]], random) -> None:
    shuffled = random.sample(table, len(table))

    def members(rows: list[tuple[int, str]]) -> list[set[int]]:
        folds = grouped_folds([str(g) for g, _ in rows], strata=[s for _, s in rows])
        return [{rows[i][0] for i in test} for _, test in folds]

    assert members(shuffled) == members(table)


def test_classes_are_spread_evenly_where_groups_allow() -> None:
    strata = np.array(["T1"] * 41 + ["T2"] * 23 + ["FLAIR"] * 5 + ["PD"] * 2)
    folds = grouped_folds([f"p{i}" for i in range(len(strata))], 5, strata=strata)
    counts = [Counter(strata[test]) for _, test in folds]
    for name in ("T1", "T2", "FLAIR", "PD"):
        assert max(c[name] for c in counts) - min(c[name] for c in counts) <= 1
    assert max(map(len, (test for _, test in folds))) <= 16


def test_a_rare_class_is_parted_though_its_patients_have_common_series_too() -> None:
    """Two patients are the only ones with PD; wherever one is tested, the other must be there to learn from."""
    groups = ["a"] * 4 + ["b"] * 4 + [f"p{i}" for i in range(20)]
    strata = ["T1", "T1", "T2", "PD"] * 2 + ["T1", "T2"] * 10
    for seed in range(20):
        for train, test in grouped_folds(groups, 5, seed, strata):
            assert "PD" in {strata[i] for i in train}
            assert not {"a", "b"} <= {groups[i] for i in test}


def test_large_groups_do_not_pile_up() -> None:
    groups = [f"p{i}" for i, size in enumerate([30, 30, 30, *[5] * 12]) for _ in range(size)]
    sizes = sorted(len(test) for _, test in grouped_folds(groups, 5))
    assert sizes == [30, 30, 30, 30, 30]


def test_the_seed_draws_other_folds() -> None:
    groups = [f"p{i}" for i in range(30)]
    tests = [[test.tolist() for _, test in grouped_folds(groups, 5, seed)] for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]


@pytest.mark.parametrize("groups", [["a", "a", "a"], []])
def test_fewer_than_two_groups_are_told(groups: list[str]) -> None:
    with pytest.raises(DecipherError, match="at least 2 patients") as error:
        grouped_folds(groups)
    assert error.value.hint
