"""Judging models on what they did not see: figures against values worked out by hand, and against the product itself."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index.spread import unit_length
from index.store import Index
from models.config import PrepareConfig
from models.errors import DecipherError
from models.prepare import prepare
from models.volume import Volume

sys.path.append(str(Path(__file__).parent / "benchmarks"))
import boxes as reading
import left_out
from boxes import Boxes
from encoded import Encoding, components
from figures import probe
from measured import Fold
from neighbours import co_registered, same, siblings
from questions import CHOICES, POINTED, Choice
from spoken import Listed, pointing, zero_shot

SEQUENCES = Choice("sequence", {"T1": "one", "T2": "two"})


def series(sequence: str, subject: str, **more: str) -> dict[str, str]:
    told = {"path": f"{subject}/{sequence}", "sequence": sequence, "subject_id": subject, "body_region": "brain"}
    return {**told, "plane": "axial", "lesion": "yes", "skull_stripped": "no", "source": "", **more}


def made(
    labels: list[dict[str, str]], shapes: list[list[int]] | None = None, marked: np.ndarray | None = None
) -> Boxes:
    """Boxes of these labels, of which nothing was read; all of one grid where no shapes are given."""
    n = len(labels)
    records = pl.DataFrame(
        {
            "series_id": [str(row) for row in range(n)],
            "study_id": [None] * n,
            "patient_id": [label["subject_id"] for label in labels],
            "shape": shapes or [[9, 9, 9]] * n,
            "spacing_mm": [[1.0, 1.0, 1.0]] * n,
            "affine_mm": [np.eye(4).ravel().tolist()] * n,
            "sequence": [label["sequence"] for label in labels],
        },
        schema_overrides={"study_id": pl.String},
    )
    return Boxes("made", labels, records, [], np.zeros((n, 4, 4, 4), bool) if marked is None else marked, [])


def whole(vectors: np.ndarray, **parts: object) -> list[Fold]:
    return [Fold(Encoding(unit_length(np.array(vectors)), **parts), np.ones(len(vectors), bool))]


def angles(*degrees: float) -> np.ndarray:
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


WORDS = {"one": angles(0)[0], "two": angles(90)[0]}


def test_a_class_is_right_where_its_prompt_is_nearest():
    boxes = made([series("T1", "a"), series("T1", "b"), series("T1", "c"), series("T2", "a"), series("PD", "a")])
    found = zero_shot(boxes, whole(angles(10, 20, 80, 60, 0), words=WORDS), SEQUENCES)
    assert found.score(None) == pytest.approx((2 / 3 + 1) / 2)
    assert found.chance == 0.5
    assert [*found.groups] == ["a", "b", "c", "a"]


def test_each_encoder_answers_for_the_rows_it_did_not_see():
    boxes = made([series("T1", "a"), series("T2", "b")])
    halves = [np.array([True, False]), np.array([False, True])]
    turned = {"one": WORDS["two"], "two": WORDS["one"]}
    encodings = [Encoding(angles(0, 0), words=WORDS), Encoding(angles(0, 80), words=WORDS)]
    others = [encodings[0], Encoding(angles(0, 10), words=turned)]
    arm = [Fold(one, half) for one, half in zip(encodings, halves, strict=True)]
    assert zero_shot(boxes, arm, SEQUENCES).score(None) == 1.0
    assert zero_shot(boxes, arm[::-1], SEQUENCES).score(None) == 1.0
    arm = [Fold(one, half) for one, half in zip(others, halves, strict=True)]
    assert zero_shot(boxes, arm, SEQUENCES).score(None) == 1.0
    assert zero_shot(boxes, [Fold(encodings[0], np.ones(2, bool))], SEQUENCES).score(None) == 0.5


def test_precision_is_of_as_many_as_there_are_and_echoes_count_once():
    relevant, share = np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 1.0])
    found = Listed(np.arange(4), relevant, share)
    assert found.precision(None) == pytest.approx(1 / 2)
    assert found.chance == 0.5
    drawn = np.array([[2.0, 0.0, 1.0, 3.0], [0.0, 2.0, 2.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    assert found.precision(drawn)[:2] == pytest.approx([1.0, 0.0])
    assert np.isnan(found.precision(drawn)[2])
    echoes = Listed(np.arange(4), np.array([0.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.5, 0.5, 1.0]))
    assert echoes.counted == 1
    assert echoes.precision(None) == 0.0


def test_neighbours_of_other_subjects_and_the_best_that_they_allow():
    boxes = made([series("T1", "a"), series("T1", "a"), series("T1", "b"), series("T2", "c")])
    found = same(boxes, whole(angles(0, 1, 2, 90)), False, ("body_region", "sequence"))
    assert found.score(None) == pytest.approx(np.mean([1 / 2, 1 / 2, 2 / 3, 0]))
    assert found.best == pytest.approx(found.score(None))
    assert same(boxes, whole(angles(0, 1, 2, 90)), False, ("body_region",)).score(None) == 1.0


def test_the_own_subject_is_looked_for_in_other_sequences_and_other_grids():
    labels = [series("T1", "a"), series("T2", "a"), *(series("T2", f"o{n}") for n in range(6))]
    degrees = (0, 40, 1, 2, 3, 4, 5, 6)
    boxes, arm = made(labels), whole(angles(*degrees))
    first = siblings(boxes, arm, False, apart=False)
    assert [*first.groups] == ["a", "a"]
    assert first.score(None) == 0.5, "T1 finds five others first; of T2, T1 is the only one of another sequence"
    assert first.chance == pytest.approx((5 / 7 + 1) / 2)
    assert siblings(boxes, arm, False, apart=True) is None, "the two are of one grid"
    other = made(labels, [[9, 9, 9], [9, 9, 5], *[[9, 9, 9]] * 6])
    assert siblings(other, arm, False, apart=True).score(None) == 0.5


def test_what_was_registered_says_so_in_its_source():
    labels = [series("T1", "a", source="x:T1_coreg.nii"), series("T2", "a", source="x:T2_coreg.nii"), series("PD", "a")]
    found = co_registered(made(labels, [[9, 9, 9], [9, 9, 5], [9, 9, 7]]))
    assert found[0, 1] and not found[0, 2] and not found[1, 2]


def test_pointing_counts_a_touch_and_stands_beside_the_share_of_the_mask():
    marked = np.zeros((2, 4, 4, 4), bool)
    marked[0, 3, 3, 3] = True
    marked[1, 0, 0, :] = True
    patches = np.tile(WORDS["two"], (2, 8, 1))
    patches[:, 7] = WORDS["one"]
    patches[1, 5] = 0  # padding
    arm = whole(angles(0, 0), patches=patches, patch=(2, 2, 2), words={POINTED: WORDS["one"]})
    boxes = made([series("T1", "a"), series("T1", "b")], marked=marked)
    hits, above = (pointing(boxes, arm, above=above) for above in (False, True))
    assert hits.score(None) == 0.5
    assert hits.chance == pytest.approx((1 / 8 + 2 / 7) / 2)
    assert above.score(None) == pytest.approx(0.5 - hits.chance)


def test_a_probe_finds_what_vectors_hold_and_nothing_in_chance(rng):
    labels = [series("T1" if n % 2 else "T2", f"s{n}") for n in range(40)]
    known = np.array([[n % 2, 1.0] for n in range(40)]) + 0.05 * rng.standard_normal((40, 2))
    asked = ("sequence", "balanced_accuracy", 2)
    assert probe(made(labels), whole(known), False, *asked).score(None) == 1.0
    blind = probe(made(labels), whole(rng.standard_normal((40, 2))), False, *asked)
    assert abs(blind.score(None) - 0.5) < 0.3
    assert blind.chance == 0.5


def test_components_keep_distances_and_no_more_than_they_may(rng):
    values = rng.standard_normal((12, 50))
    found = components(values)
    assert found.shape == (12, 11)
    between = [np.linalg.norm(one[3] - one[7]) for one in (values, found)]
    assert between[0] == pytest.approx(between[1])
    assert components(rng.standard_normal((50, 60))).shape == (50, 32)


def test_a_mask_of_another_grid_lies_where_its_voxels_are(tmp_path, rng):
    import nibabel

    data = np.zeros((1, 40, 40, 40), np.float32)
    data[0, 4:36, 4:36, 4:36] = 1 + rng.random((32, 32, 32))
    prepared = prepare(Volume(data, np.diag([1.0, 1.0, 1.0, 1.0])), PrepareConfig(box=(32, 32, 32)))
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5, 6, 7] = 1  # of 2 mm, so at 10, 12 and 14 mm
    nibabel.save(nibabel.Nifti1Image(mask, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "mask.nii.gz")
    found = np.argwhere(reading._marked(tmp_path, "mask.nii.gz", prepared))
    assert len(found) == 1
    place = prepared.affine_mm.numpy() @ [*found[0], 1]
    assert np.abs(place[:3] - [10, 12, 14]).max() <= np.exp(float(prepared.geometry[6])) / 2 + 1e-6
    assert not reading._marked(tmp_path, "", prepared).any()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def judged(phantom_archive: Path, tiny_model: Path, kept: Path) -> dict:
    return left_out.measured(phantom_archive, kept, [(str(tiny_model), [])], True, seeds=1)


def test_the_answers_are_those_of_classify_and_the_vectors_those_of_encode(
    judged, decipher, index, phantom_archive, tiny_model, kept
):
    prompts = CHOICES["zero-shot region"].prompts
    back = {prompt: name for name, prompt in prompts.items()}
    lines = decipher("classify", *prompts.values(), "--json").json_lines()
    said = {line["path"]: back[line["label"]] for line in lines}
    ours = {one["path"].rstrip("/"): one["zero-shot region"]["said"] for one in judged["answers"]}
    assert ours and ours == {path: said[path] for path in ours}
    boxes = reading.boxes_of(phantom_archive, PrepareConfig(box=(32, 32, 32)), kept)
    opened = Index.open(index)
    rows = dict(zip(opened.records["path"], range(len(opened)), strict=True))
    theirs = opened.vectors[[rows[label["path"].rstrip("/")] for label in boxes.labels]]
    np.testing.assert_allclose(left_out.trained(str(tiny_model), boxes, kept).vectors, theirs, atol=1e-6)


def test_every_figure_has_its_interval_and_its_baselines(judged):
    one = judged["figures"]["same region and sequence P@5"]
    assert {*one["baselines"]} == {"random weights", "24³ intensities, PCA", "histogram", "geometry"}
    assert {*judged["figures"]["zero-shot region"]["baselines"]} == {"random weights"}
    for figure in judged["figures"].values():
        assert figure["model"]["low"] <= figure["model"]["value"] <= figure["model"]["high"]
        assert figure["model"]["value"] <= figure["best"] + 1e-9
    right = [one["zero-shot plane"]["truth"] == one["zero-shot plane"]["said"] for one in judged["answers"]]
    told = judged["parts"]["sequence"].values()
    assert sum(parts["zero-shot plane"]["right"] for parts in told if "zero-shot plane" in parts) == sum(right)


def test_the_second_time_nothing_is_read_and_the_table_is_the_same(
    judged, phantom_archive, tiny_model, kept, capsys, monkeypatch
):
    def refused(*given: object, **more: object) -> None:
        raise AssertionError("the archive is read again")

    monkeypatch.setattr(reading, "read_archive", refused)
    left_out.main(
        [str(phantom_archive), "--cache", str(kept), "--models", str(tiny_model), "--all", "--seeds", "1", "--json"]
    )
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(judged))
    left_out.main([str(phantom_archive), "--cache", str(kept), "--models", str(tiny_model), "--all", "--seeds", "0"])
    page = capsys.readouterr().out
    assert "those the model was trained on too" in page
    assert "| zero-shot region |" in page and "random weights" not in page


def test_models_are_judged_on_what_each_did_not_see(phantom_archive, tiny_model, kept):
    names = [(str(tiny_model), ["PHANTOM-0001", "sub-02"]), (str(tiny_model), ["PHANTOM-0003", "sub-04"])]
    found = left_out.measured(phantom_archive, kept, names, False, seeds=0)
    assert found["judged"] == sum(one["series"] for one in found["models"]) < found["series"]
    assert all(any(word in one["path"] for _, words in names for word in words) for one in found["answers"])
    assert "same region P@5, among all series" in found["figures"]
    assert found["figures"]["zero-shot region"]["subjects"] == 4


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["MODEL"], "not said what the model did not see"),
        (["MODEL=nowhere"], "No series has nowhere"),
        (["MODEL=sub-02", "MODEL=sub-0"], "left out by two models"),
        (["MODEL", "MODEL", "--all"], "judged by one model"),
    ],
)
def test_what_cannot_be_judged_is_said(models, said, phantom_archive, tiny_model, kept, judged):
    words = [one.replace("MODEL", str(tiny_model)) for one in models]
    with pytest.raises(DecipherError, match=said):
        left_out.main([str(phantom_archive), "--cache", str(kept), "--models", *words])
