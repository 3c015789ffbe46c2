"""Prompt sets: what is read, what is refused, and the vectors and probabilities against plain NumPy."""

from pathlib import Path

import numpy as np
import pytest

from index.prompts import PromptClass, class_vectors, codes_of, encoded, probabilities, read_prompts, typed
from index.search import classify, evidence
from index.store import Index
from models.errors import DecipherError

DIM = 6


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def written(folder: Path, text: str) -> Path:
    path = folder / "prompts.yaml"
    path.write_text(text)
    return path


def test_wordings_are_parted_and_said_once():
    found = typed(["T1| T1-weighted   MRI |t1 ", "T2"])
    assert found.classes[0] == PromptClass("T1| T1-weighted   MRI |t1 ", ("T1", "T1-weighted MRI"))
    assert [one.short for one in found.classes] == ["T1", "T2"] and not found.findings


def test_a_file_of_classes_and_one_of_findings(tmp_path):
    found = read_prompts(written(tmp_path, "T1: [T1-weighted MRI, T1w]\nno: not MRI"))
    assert found.to_json() == {"T1": ["T1-weighted MRI", "T1w"], "no": ["not MRI"]}
    found = read_prompts(written(tmp_path, "lesion: {positive: [a lesion, a bright lesion], negative: no lesion}"))
    assert found.findings
    assert found.to_json() == {"lesion": {"positive": ["a lesion", "a bright lesion"], "negative": ["no lesion"]}}
    assert typed(["a"], ["b|c"]).to_json() == {"a": {"positive": ["a"], "negative": ["b", "c"]}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("T1: [a", "no YAML"),
        ("- T1\n- T2", "by name"),
        ("", "by name"),
        ("just text", "by name"),
        ("T1: [a]", "two classes"),
        ("T1: [a]\nT2: []", "'T2' has no wording"),
        ("T1: [a]\nT2:", "'T2' has no wording"),
        ("T1: [a]\nT2: ['', ' ']", "'T2' has no wording"),
        ("T1: [a]\nT2: [[b]]", "not all text"),
        ("T1: [a]\nT1: [b]", "the same: 't1'"),
        ("T1: [a, b]\nT2: [c, ' A ']", "the same: 'a'"),
        ("x: {positive: [a]}", "positive and negative"),
        ("x: {positive: [a], negative: []}", "positive and negative"),
        ("x: {positive: [a], negative: [A]}", "for 'x' and against"),
        ("x: {positive: [a], negative: [b]}\ny: [c]", "mixes"),
    ],
)
def test_a_bad_file_is_told(tmp_path, text, said):
    with pytest.raises(DecipherError, match=said) as error:
        read_prompts(written(tmp_path, text))
    assert error.value.hint


def test_a_file_that_is_none_is_told(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(DecipherError, match="cannot be read"):
            read_prompts(path)


@pytest.mark.parametrize(
    ("prompts", "against"),
    [([], []), (["a"], []), (["a", " A  "], []), (["a b", "a  B"], []), (["a", " "], []), (["a", "|"], []),
     (["a|b", "b|c"], []), (["a"], ["A"]), (["a", "b"], ["c"]), (["a"], ["c", "d"]), (["a"], [""])],
)  # fmt: skip
def test_bad_prompts_are_told(prompts, against):
    with pytest.raises(DecipherError) as error:
        typed(prompts, against)
    assert error.value.hint


def test_what_is_one_to_the_encoder_is_told(rng):
    one, two = unit(rng, 2)
    prompts = typed(["a", "b"])
    with pytest.raises(DecipherError, match="'a' and 'b' are one and the same"):
        encoded(prompts, lambda texts: np.stack([one, one]))
    with pytest.raises(DecipherError, match="'a' and 'c' are one and the same"):
        encoded(typed(["a", "b"], ["c", "d"]), lambda texts: np.stack([one, two, one, -two]))
    with pytest.raises(DecipherError, match="cancel"):
        encoded(typed(["a|b", "c"]), lambda texts: np.stack([one, -one, two]))


def test_class_vectors_are_normalised_means_and_findings_their_difference(rng):
    words = dict(zip("abcde", unit(rng, 5), strict=True))

    def encode(texts: list[str]) -> np.ndarray:
        return np.stack([words[one] for one in texts])

    ab, c, de = words["a"] + words["b"], words["c"], words["d"] + words["e"]
    expected = np.stack([ab / np.linalg.norm(ab), c])
    np.testing.assert_allclose(encoded(typed(["a|b", "c"]), encode), expected, atol=1e-6)
    finding = encoded(typed(["a|b"], ["d|e"]), encode)
    np.testing.assert_allclose(finding, (ab / np.linalg.norm(ab) - de / np.linalg.norm(de))[None], atol=1e-6)
    np.testing.assert_allclose(class_vectors([c[None]], [words["d"][None]]), (c - words["d"])[None])


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator) -> Index:
    import polars as pl

    made = Index.create(tmp_path / "index", {"name": "small", "hash": "h", "dim": DIM})
    for start in (0, 20):
        ids = [f"s{row:02d}" for row in range(start, start + 20)]
        made.append(pl.DataFrame({"series_id": ids}), unit(rng, 20))
    made.remove(["s03"])
    return made


def test_findings_are_sigmoids_of_the_difference_of_cosines(index, rng):
    yes, no, other, none = unit(rng, 4)
    found = classify(index, [yes[None], other[None]], 15.0, [no[None], none[None]])
    for column, (one, two) in enumerate(((yes, no), (other, none))):
        z = 15.0 * (index.vectors.astype(np.float64) @ one - index.vectors.astype(np.float64) @ two)
        np.testing.assert_allclose(found[:, column], 1 / (1 + np.exp(-z)), atol=1e-5)
    assert found.shape == (39, 2) and found.dtype == np.float32
    np.testing.assert_allclose(
        evidence(index, (yes - no)[None], 15.0)[:, 0], 15 * (index.vectors @ (yes - no)), atol=1e-4
    )


def test_large_logits_do_not_overflow():
    with np.errstate(over="raise"):
        sigmoids = probabilities(np.array([[-1e4], [0.0], [1e4]], np.float32), True)
        shares = probabilities(np.array([[1e4, -1e4]], np.float32), False)
    np.testing.assert_array_equal(sigmoids[:, 0], [0, 0.5, 1])
    np.testing.assert_array_equal(shares, [[1, 0]])


def test_labels_find_their_class_by_name_or_wording():
    codes, unknown = codes_of(
        typed(["T1|T1-weighted MRI", "T2"]), ["t1", " T1-Weighted  MRI", "T2", None, "PD", "unknown"]
    )
    assert codes.tolist() == [0, 0, 1, -1, -1, -1] and unknown == {"PD": 1}
    values = ["yes", 1, True, "0", False, "A lesion", "no lesion", "maybe"]
    codes, unknown = codes_of(typed(["a lesion"], ["no lesion"]), values)
    assert codes.tolist() == [1, 1, 1, 0, 0, 1, 0, -1] and unknown == {"maybe": 1}
