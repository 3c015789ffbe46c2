"""Pictures of probes: the numbers in them against other computations, and files that are whole and always the same."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, confusion_matrix, roc_auc_score, roc_curve

from training.calibration import calibration_error
from training.probe import ProbeResult, fit_probe
from training.probe_numbers import confusion, mean_roc, reliability, roc, rocs_of
from training.probe_plots import COLOURS, NAMES, draw

PATIENTS = 40


def probed(values: object, seed: int = 0, **asked: object) -> ProbeResult:
    """A probe of vectors (80, 6) that know something of their patient's number; values: of the number (80,)."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(PATIENTS), 2)
    vectors = rng.normal(size=(80, 6))
    vectors[:, 0] += patient / 8
    labels = values(patient)  # type: ignore[operator]
    return fit_probe(vectors, labels, [f"secret-{one:02}" for one in patient], task="number", **asked)  # type: ignore


@pytest.fixture(scope="module")
def thirds() -> ProbeResult:
    return probed(lambda patient: np.array(["low", "middle", "high"])[patient * 3 // PATIENTS].tolist())


@pytest.fixture(scope="module")
def halves() -> ProbeResult:
    return probed(lambda patient: [one >= PATIENTS // 2 for one in patient], curve=True)


@pytest.fixture(scope="module")
def numbers() -> ProbeResult:
    return probed(lambda patient: (patient + 0.5).tolist(), curve=True, baselines={"geometry": np.ones((80, 1))})


@pytest.fixture(scope="module")
def several() -> ProbeResult:
    def labels(patient: np.ndarray) -> dict[str, list]:
        return {
            "late": [int(one > 25) for one in patient],
            "odd": [None if one < 5 else int(one % 2) for one in patient],
        }

    return probed(labels)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_roc_is_that_of_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    positive, scores = (np.array(column) for column in zip(*rows, strict=True))
    if positive.all() or not positive.any():
        return
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    found = roc(positive, scores / 7)
    np.testing.assert_allclose(found, (false, true))


def test_the_rocs_of_classes_are_one_against_the_rest(thirds) -> None:
    rocs = rocs_of(thirds)
    assert [one.name for one in rocs] == thirds.classes == ["high", "low", "middle"]
    for number, one in enumerate(rocs):
        false, true, _ = roc_curve(thirds.target == number, thirds.outputs[:, number], drop_intermediate=False)
        np.testing.assert_allclose((one.false, one.true), (false, true))
        assert one.area["value"] == pytest.approx(auc(false, true)) and one.n == np.sum(thirds.target == number)
        assert one.area["low"] <= one.area["value"] <= one.area["high"]


def test_the_area_under_the_mean_is_the_macro_auroc(thirds) -> None:
    false, true = mean_roc(rocs_of(thirds))
    assert (np.diff(false) >= 0).all() and (np.diff(true) >= -1e-12).all()
    wanted = roc_auc_score(thirds.target, thirds.outputs, multi_class="ovr")
    assert auc(false, true) == pytest.approx(wanted) == thirds.metrics["auroc"]["value"]


def test_of_two_classes_there_is_one_roc(halves) -> None:
    (one,) = rocs_of(halves)
    assert one.name == "yes" and one.area == pytest.approx(halves.metrics["auroc"])


def test_of_several_labels_each_counts_where_it_is_known(several) -> None:
    late, odd = rocs_of(several)
    known = ~np.isnan(several.target[:, 1])
    assert known.sum() == 70 and (late.name, odd.name, odd.n) == ("late", "odd", 36)
    false, true, _ = roc_curve(several.target[known, 1], several.outputs[known, 1], drop_intermediate=False)
    np.testing.assert_allclose((odd.false, odd.true), (false, true))
    assert odd.area["value"] == pytest.approx(several.labels["odd"]["auroc"]["value"])


def test_bins_of_reliability_add_up_to_the_calibration_error(thirds) -> None:
    bins = reliability(thirds)
    assert sum(one.n for one in bins) == 80 and all(one.n for one in bins)
    gaps = [one.n / 80 * abs(one.right["value"] - one.sure) for one in bins]
    assert sum(gaps) == pytest.approx(calibration_error(thirds.target, thirds.outputs))
    for one in bins:
        assert one.place / 10 <= one.sure <= (one.place + 1) / 10
        assert one.right["low"] <= one.right["value"] <= one.right["high"]


def test_confusion_counts_true_classes_in_rows(thirds) -> None:
    wanted = confusion_matrix(thirds.target, thirds.outputs.argmax(axis=1))
    np.testing.assert_array_equal(confusion(thirds), wanted)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("thirds", {"roc", "calibration", "confusion"}),
        ("halves", {"roc", "calibration", "confusion", "curve"}),
        ("numbers", {"predicted", "curve"}),
        ("several", {"roc"}),
    ],
)
def test_pictures_suit_the_probe_are_whole_and_the_same_each_time(kind, wanted, request, tmp_path) -> None:
    result = request.getfixturevalue(kind)
    paths = draw(result, tmp_path / "one")
    assert {path.name for path in paths} == {f"{name}.{end}" for name in wanted for end in ("png", "svg")}
    for path, again in zip(paths, draw(result, tmp_path / "two"), strict=True):
        content = path.read_bytes()
        assert content == again.read_bytes() and path.name in NAMES
        assert b"secret" not in content and b"<dc:date>" not in content
        if path.suffix == ".svg":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            check_png(path)


def check_png(path: Path) -> None:
    """A picture at least 600 pixels wide, with ink, and none at its edge: nothing is cut off."""
    from PIL import Image

    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"))
    assert grey.shape[1] >= 600 and grey.min() < 100
    edge = np.concatenate([grey[:3].ravel(), grey[-3:].ravel(), grey[:, :3].ravel(), grey[:, -3:].ravel()])
    assert edge.min() == 255


def words(path: Path) -> list[str]:
    return [text for one in ElementTree.parse(path).iter() if (text := "".join(one.itertext()).strip())]


def test_legends_tell_the_figures(thirds, numbers, tmp_path) -> None:
    draw(thirds, tmp_path)
    said, figure = words(tmp_path / "roc.svg"), thirds.metrics["auroc"]
    assert f"mean  {figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})" in said
    assert any(one.startswith("chance") for one in said) and "number: 80 series of 40 patients" in said
    draw(numbers, tmp_path)
    assert f"MAE  {numbers.baselines['mean']['mae']:.2f}" in words(tmp_path / "predicted.svg")
    assert any(one.startswith("geometry") for one in words(tmp_path / "curve.svg"))


def test_an_earlier_probe_s_pictures_go_and_all_else_stays(halves, numbers, tmp_path) -> None:
    (tmp_path / "probe.json").write_text("{}")
    draw(halves, tmp_path)
    draw(numbers, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"probe.json", "predicted.png", "predicted.svg", "curve.png", "curve.svg"}


def test_more_classes_than_colours_and_long_names(tmp_path, rng) -> None:
    target = np.repeat(np.arange(30), 4)
    outputs = rng.dirichlet(np.ones(30), 120) + 0.1 * np.eye(30)[target]
    some = probed(lambda patient: [one % 2 for one in patient])
    many = replace(
        some, kind="multiclass", target=target, outputs=outputs, who=target.astype(str),
        classes=[f"a class with quite a long name, number {one}" for one in range(30)],
    )  # fmt: skip
    draw(many, tmp_path)
    assert f"{30 - 2 * len(COLOURS)} smaller classes" in words(tmp_path / "roc.svg")
    for name in ("roc", "calibration", "confusion"):
        check_png(tmp_path / f"{name}.png")


def test_names_of_any_letters(halves, tmp_path, recwarn) -> None:
    draw(replace(halves, task="病変", classes=["a", "$x^$ & <y>"], curve=[]), tmp_path)
    said = words(tmp_path / "roc.svg")
    assert any(one.startswith("$x^$ & <y>") for one in said) and any("病変" in one for one in said)
    assert not recwarn.list


def test_what_is_not_defined_is_said(numbers, tmp_path) -> None:
    nothing = {"value": None, "low": None, "high": None}
    draw(replace(numbers, metrics={**numbers.metrics, "r2": nothing}, curve=[]), tmp_path)
    assert "R²  not defined" in words(tmp_path / "predicted.svg")


def test_many_dots_are_one_picture_in_the_svg(numbers, tmp_path) -> None:
    times = 100
    many = replace(numbers, target=np.repeat(numbers.target, times), outputs=np.repeat(numbers.outputs, times, axis=0))
    draw(many, tmp_path)
    assert (tmp_path / "predicted.svg").stat().st_size < 300_000
