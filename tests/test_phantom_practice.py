"""The phantom's wider practice: new sequences and regions, coils, flaws, oblique views, real heads, what goes with what."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.geometry import plane_of
from training.phantom.anatomy import BUILDERS, make_anatomy
from training.phantom.archive_dicom import BODY_PART, dicom_slices
from training.phantom.archive_nifti import SUFFIX, bids_name
from training.phantom.coils import ELEMENTS, coil_bias
from training.phantom.flaws import distort, empty_margins, ghosts, low_resolution, window
from training.phantom.head_map import HeadMap
from training.phantom.lesion import LESIONS
from training.phantom.person import Person
from training.phantom.physics import Protocol, tissue_signal
from training.phantom.practice import NORMAL_MM, PLANE_WEIGHTS, PLANES, draw_plane, sequence_weights
from training.phantom.protocol import SEQUENCES, draw_protocol
from training.phantom.report import REGION, WEIGHTING
from training.phantom.scanner import Geometry, draw_geometry
from training.phantom.series import make_patient
from training.phantom.tissue import Tissue

BLOOD, MUSCLE, FAT = Tissue.BLOOD, Tissue.MYOCARDIUM, Tissue.FAT


def signals(sequence: str, region: str, seed: int, volumetric: bool = False) -> tuple[Protocol, np.ndarray]:
    protocol = draw_protocol(sequence, region, 1.5 + 1.5 * (seed % 2), volumetric, np.random.default_rng(seed))
    return protocol, tissue_signal(protocol)


def square(shape: tuple[int, int, int] = (40, 40, 12)) -> np.ndarray:
    image = np.zeros(shape, np.float32)
    image[12:28, 12:28, 3:9] = 1
    return image


# Signal


def test_blood_is_bright_in_cine_and_angiography_and_black_in_spin_echo() -> None:
    for seed in range(20):
        _, cine = signals("CINE", "heart", seed)
        _, angiography = signals("MRA", "brain", seed, volumetric=True)
        _, black = signals("T2", "heart", seed)
        assert cine[BLOOD] > 1.8 * cine[MUSCLE] > 0
        assert angiography[BLOOD] > 2.5 * max(angiography[[Tissue.GRAY_MATTER, Tissue.WHITE_MATTER, MUSCLE]])
        assert black[BLOOD] < 0.5 * black[MUSCLE]


def test_late_enhancement_nulls_healthy_myocardium_and_shows_the_scar() -> None:
    late = [found for seed in range(30) if (found := signals("T1C", "heart", seed))[0].late]
    assert len(late) > 10
    for _, signal in late:
        assert signal[MUSCLE] < 0.35 * signal[Tissue.SCAR]
        assert signal[BLOOD] > 2 * signal[MUSCLE]


def test_a_breast_cancer_enhances_more_than_gland() -> None:
    for seed in range(20):
        _, signal = signals("DCE", "breast", seed)
        assert signal[Tissue.CARCINOMA] > 1.3 * signal[Tissue.FIBROGLANDULAR]


def test_opposed_phase_cancels_where_fat_meets_water() -> None:
    opposed = [found for seed in range(60) if (found := signals("T1", "abdomen", seed, True))[0].opposed]
    assert opposed
    for _, signal in opposed:
        fat, water = float(signal[FAT]), float(signal[Tissue.LIVER])
        assert fat < 0 < water and abs(fat + water) / 2 < 0.5 * max(-fat, water)


def test_fluid_of_a_flair_is_dark_but_not_always_equally() -> None:
    """Nor is grey matter always the brighter: real FLAIR from four scanners have 0.95 to 1.24 times white matter's signal."""
    drawn = [signals("FLAIR", "brain", seed, volumetric=seed % 3 == 0)[1] for seed in range(200)]
    fluid, gray, plaque = (
        np.array([signal[tissue] / signal[Tissue.WHITE_MATTER] for signal in drawn])
        for tissue in (Tissue.CSF, Tissue.GRAY_MATTER, Tissue.PLAQUE)
    )
    assert np.percentile(fluid, 90) < 0.5 and np.std(fluid) > 0.05 and np.median(fluid) < 0.2
    assert np.percentile(gray, 10) < 0.95 and np.percentile(gray, 90) > 1.2
    assert np.percentile(plaque, 5) > 1


# What goes with what


def test_every_region_is_given_every_sequence_and_plane() -> None:
    assert set(PLANE_WEIGHTS) == set(BUILDERS) == set(ELEMENTS) == set(REGION) == set(BODY_PART)
    assert set(SEQUENCES) == set(WEIGHTING) == set(SUFFIX)
    for region in BUILDERS:
        weights = sequence_weights(region)
        assert weights.sum() == pytest.approx(1) and weights.min() > 0.015 and weights.max() < 0.35
        assert sum(PLANE_WEIGHTS[region]) == pytest.approx(1) and min(PLANE_WEIGHTS[region]) >= 0.05


def test_no_sequence_gives_its_plane_away() -> None:
    for sequence in SEQUENCES:
        rng = np.random.default_rng(3)
        drawn = Counter(draw_plane(region, sequence, rng) for region in BUILDERS for _ in range(300))
        assert set(drawn) == set(PLANES) and max(drawn.values()) < 0.9 * drawn.total()


# Geometry


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), view=st.sampled_from(sorted(NORMAL_MM)))
def test_an_oblique_view_lies_across_its_direction_in_ras_order(seed: int, view: str) -> None:
    normal = np.array(NORMAL_MM[view]) / np.linalg.norm(NORMAL_MM[view])
    rng = np.random.default_rng(seed)
    geometry = draw_geometry("axial", np.zeros(3), np.array([250, 220, 150]), rng, 64, (7.0, 10.0), normal=normal)
    directions = geometry.affine_mm[:3, :3] / geometry.spacing_mm
    slices = directions[:, geometry.spacing_mm.argmax()]
    assert abs(slices @ normal) > np.cos(np.deg2rad(20))
    assert np.linalg.det(directions) == pytest.approx(1, abs=1e-6)
    assert geometry.plane == plane_of(geometry.affine_mm)


def test_sagittal_breasts_lie_on_either_side() -> None:
    person = Person(45, "F", 1.0, 0.3, 0.3)
    anatomy = make_anatomy("breast", person, np.random.default_rng(0), 6.0, "healthy")
    sides = {float(np.sign(anatomy.field_mm("sagittal", False, rng=np.random.default_rng(n))[0][0])) for n in range(20)}
    assert sides == {-1.0, 1.0}


# Coils and flaws


def cube(n: int = 40) -> Geometry:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    return Geometry((n, n, n), affine, "axial", 4.0)


def test_coils_are_strong_where_they_lie() -> None:
    spine = np.mean([coil_bias(cube(), "spine", np.random.default_rng(seed)) for seed in range(20)], axis=0)
    breast = np.mean([coil_bias(cube(), "breast", np.random.default_rng(seed)) for seed in range(20)], axis=0)
    assert spine[:, :8].mean() > 1.3 * spine[:, -8:].mean()
    assert breast[:, -8:].mean() > 1.3 * breast[:, :8].mean()
    assert spine.min() > 0 and breast.min() > 0


def test_low_resolution_keeps_the_mean_and_rings_at_edges() -> None:
    image = square()
    coarse = low_resolution(image, 0, 0.5)
    assert coarse.mean() == pytest.approx(float(image.mean()), rel=1e-4)
    assert coarse.max() > 1.04 and np.abs(np.diff(coarse, axis=0)).max() < 0.9
    assert np.allclose(low_resolution(image, 0, 1.0), image, atol=0.3)


def test_ghosts_lie_along_the_phase_axis_only(rng: np.random.Generator) -> None:
    found = ghosts(square(), 1, rng)
    assert found[20, :12].max() > 0.005 and found[:12].max() == 0


def test_echo_planar_signal_is_lost_and_moved_about_air(rng: np.random.Generator) -> None:
    image, air = np.ones((40, 40, 20), np.float32), np.zeros((40, 40, 20), np.float32)
    air[16:24, 28:36, 6:14] = 1
    found = distort(image, air, 1, rng)
    assert found.shape == image.shape and found.min() >= 0 and found.max() <= 1.0001
    assert found[20, 24:40, 10].min() < 0.8 < found[4, 4, 2]


def test_margins_are_zero_and_windows_keep_the_order(rng: np.random.Generator) -> None:
    image = rng.uniform(0.1, 1, (50, 50, 50)).astype(np.float32)
    cut = [empty_margins(image, np.random.default_rng(seed)) for seed in range(10)]
    assert any((found == 0).any() for found in cut)
    for found in cut:
        assert np.array_equal(found[found > 0], image[found > 0])
    for seed in range(10):
        stored = window(image, np.random.default_rng(seed)).ravel()
        assert stored.min() >= 0 and (np.diff(stored[np.argsort(image.ravel())]) >= 0).all()


# Patients


def test_new_regions_are_of_the_right_people() -> None:
    series = [make_patient(seed, "breast", ["DCE"], voxel_mm=6.0, max_voxels=24)[0] for seed in range(40)]
    assert sum(s.labels["sex"] == "F" for s in series) >= 34
    assert {s.labels["diagnosis"] for s in series} >= set(LESIONS["breast"]) | {"healthy"}
    heart = [make_patient(seed, "heart", ["CINE"], voxel_mm=6.0, max_voxels=24)[0] for seed in range(30)]
    assert {s.labels["plane"] for s in heart} >= {"axial", "sagittal", "coronal"}
    assert {s.labels["diagnosis"] for s in heart} >= set(LESIONS["heart"]) | {"healthy"}


def test_the_heart_lies_to_the_left_between_dark_lungs() -> None:
    for seed in range(3):
        person = Person(45, "M", 1.0, 0.3, 0.3)
        space = BUILDERS["heart"](person, np.random.default_rng(seed), 5.0)
        heart, liver, lung = (space.labels == t for t in (Tissue.MYOCARDIUM, Tissue.LIVER, Tissue.LUNG))
        x = [(np.argwhere(part).mean(0) * 5.0 + space.affine_mm[:3, 3])[0] for part in (heart, liver)]
        assert x[0] < -5 < 20 < x[1]
        assert 80 < heart.sum() * 0.125 < 350 and 1500 < lung.sum() * 0.125 < 6500  # in ml


def test_a_view_across_the_long_axis_reaches_dicom() -> None:
    oblique = next(
        one
        for seed in range(30)
        if (one := make_patient(seed, "heart", ["CINE"], voxel_mm=6.0, max_voxels=24)[0]).labels["plane"] in PLANES[:3]
        and np.abs(one.volume.affine_mm[:3, :3] / one.volume.spacing_mm).max(0).min() < 0.9
    )
    assert len(list(dicom_slices(oblique, "P", "20240101", 1))) == oblique.volume.data.shape[
        1 + int(oblique.volume.spacing_mm.argmax())
    ]  # fmt: skip
    assert bids_name(oblique, "sub-01", 1).endswith("_cine")


def test_of_a_real_head_only_what_is_known_is_told() -> None:
    labels = BUILDERS["brain"](Person(40, "F", 1.0, 0.3, 0.2), np.random.default_rng(0), 5.0)
    unknown = HeadMap(labels.labels, labels.affine_mm)
    one = make_patient(3, sequences=["T2"], head=unknown, diagnosis="healthy", voxel_mm=5.0, max_voxels=32)[0]
    told = ("age_years", "sex", "diagnosis", "lesion")
    assert [one.labels[name] for name in told] == [None] * 4
    assert "lesion" not in one.report.lower() and "year" not in one.report
    ill = HeadMap(labels.labels, labels.affine_mm, age_years=50.0, sex="M", lesion="yes")
    one = make_patient(3, sequences=["T2"], head=ill, diagnosis="healthy", voxel_mm=5.0, max_voxels=32)[0]
    assert [one.labels[name] for name in told] == [50.0, "M", None, "yes"]
    bare = HeadMap(labels.labels, labels.affine_mm, whole=False)
    series = make_patient(3, sequences=["T2"], head=bare, skull_stripped=False, voxel_mm=5.0, max_voxels=32)
    assert series[0].labels["skull_stripped"] == "yes"
