"""Real heads as maps of tissues: held against digital heads, of which every tissue is known."""

import numpy as np
import pytest

from models.volume import Volume
from training.phantom.anatomy import make_anatomy
from training.phantom.head_map import HeadMap
from training.phantom.head_tissue import GRID_MM, head_map
from training.phantom.person import Person
from training.phantom.series import make_patient
from training.phantom.tissue import BRAIN, Tissue

PERSON = Person(40.0, "F", 1.0, 0.3, 0.2)
KNOWN = {"age_years": 40.0, "sex": "F", "lesion": "no"}
BRIGHTNESS = {Tissue.GRAY_MATTER: 0.72, Tissue.DEEP_GRAY: 0.78, Tissue.PALLIDUM: 0.9, Tissue.WHITE_MATTER: 1.0,
              Tissue.AGED_WHITE_MATTER: 0.95, Tissue.CSF: 0.25, Tissue.FAT: 1.5, Tissue.FATTY_MARROW: 1.4, Tissue.SKIN: 0.7,
              Tissue.MUSCLE: 0.65, Tissue.MUCOSA: 0.6, Tissue.BLOOD: 0.3, Tissue.VITREOUS: 0.25}  # fmt: skip


@pytest.fixture(scope="module")
def painted() -> tuple[np.ndarray, Volume]:
    """The labels of a digital head, and a T1-weighted volume of it in the brightness that T1 gives its tissues."""
    anatomy = make_anatomy("brain", PERSON, np.random.default_rng(0), voxel_mm=GRID_MM, diagnosis="healthy")
    table = np.zeros(len(Tissue), np.float32)
    table[list(BRIGHTNESS)] = list(BRIGHTNESS.values())
    noise = np.random.default_rng(1).normal(0, 0.02, anatomy.labels.shape)
    image = np.clip(table[anatomy.labels] + noise, 0, None).astype(np.float32)
    return anatomy.labels, Volume(300 * image[None], anatomy.affine_mm)


@pytest.fixture(scope="module")
def found(painted: tuple[np.ndarray, Volume]) -> HeadMap:
    head = head_map(painted[1], KNOWN)
    assert head is not None
    return head


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_the_brain_is_found_where_it_was_painted(painted: tuple[np.ndarray, Volume], found: HeadMap) -> None:
    true, said = painted[0], found.labels
    assert said.shape == true.shape
    matter = (Tissue.GRAY_MATTER, Tissue.WHITE_MATTER)
    assert dice(np.isin(said, matter), np.isin(true, BRAIN)) > 0.9
    assert dice(said == Tissue.WHITE_MATTER, np.isin(true, (Tissue.WHITE_MATTER, Tissue.AGED_WHITE_MATTER))) > 0.8
    assert dice(said != Tissue.AIR, true != Tissue.AIR) > 0.95


def test_what_is_known_of_the_person_comes_along(found: HeadMap) -> None:
    assert (found.age_years, found.sex, found.lesion, found.whole) == (40.0, "F", "no", True)


def test_a_lesion_of_the_person_is_not_known_of_the_map(painted: tuple[np.ndarray, Volume]) -> None:
    head = head_map(painted[1], KNOWN | {"lesion": "yes", "skull_stripped": "yes"})
    assert head is not None and head.lesion is None and not head.whole


def test_the_map_lies_on_the_template(painted: tuple[np.ndarray, Volume], found: HeadMap) -> None:
    """The middle of the brain in the map's mm is that of the digital brain in its own, within a few mm."""
    true = np.argwhere(np.isin(painted[0], BRAIN)).mean(axis=0)
    place = painted[1].affine_mm[:3, :3] @ true + painted[1].affine_mm[:3, 3]
    said = (
        np.argwhere(np.isin(found.labels, BRAIN)).mean(axis=0) * np.diag(found.affine_mm)[:3] + found.affine_mm[:3, 3]
    )
    assert np.abs(said - place).max() < 12


def test_no_brain_no_map() -> None:
    knee = make_patient(3, "knee", ["T1"], max_voxels=64)[0].volume
    t2 = make_patient(4, "brain", ["T2"], diagnosis="healthy", skull_stripped=False, max_voxels=64)[0].volume
    assert head_map(knee, {}) is None
    assert head_map(t2, {}) is None


def test_patients_with_the_head_are_its_owners(found: HeadMap) -> None:
    first, again = (make_patient(5, head=found, sequences=["T1", "T2"], max_voxels=48) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.volume.data, other.volume.data)
        assert (one.labels["body_region"], one.labels["age_years"], one.labels["sex"]) == ("brain", 40.0, "F")


def test_the_build_keeps_the_tissues_and_turns_them(found: HeadMap) -> None:
    counts = np.bincount(found.labels.ravel(), minlength=len(Tissue)) * GRID_MM**3
    for seed in range(3):
        space = found.build(PERSON, np.random.default_rng(seed), 3.0)
        share = np.bincount(space.labels.ravel(), minlength=len(Tissue)) * 3.0**3 / np.maximum(counts, 1)
        size = np.abs(np.prod(space.stretch))
        for tissue in (Tissue.GRAY_MATTER, Tissue.WHITE_MATTER, Tissue.FAT):
            assert 0.85 < share[tissue] / size < 1.15


def test_ventricles_stay_when_the_skull_goes() -> None:
    """On T2 of old, skull-stripped brains fluid is the brightest, and it is there."""
    old = Person(85.0, "M", 1.0, 0.3, 1.1)
    anatomy = make_anatomy("brain", old, np.random.default_rng(2), voxel_mm=2.5, diagnosis="healthy")
    assert anatomy.brain_mask is not None
    deep = np.zeros(anatomy.labels.shape, bool)
    middle = np.argwhere(np.isin(anatomy.labels, BRAIN)).mean(axis=0).astype(int)
    deep[tuple(slice(m - 14, m + 14) for m in middle)] = True
    fluid = deep & (anatomy.labels == Tissue.CSF)
    assert fluid.sum() > 500
    assert (anatomy.brain_mask & fluid).sum() / fluid.sum() > 0.85
