"""The phantom: signal equations, anatomy, geometry, lesions, reports, the archive on disk."""

import csv
import gzip
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DecipherError
from training.phantom.anatomy import BUILDERS, FIELDS_MM, VOXEL_MM, make_anatomy
from training.phantom.archive import LABEL_COLUMNS, make_archive
from training.phantom.archive_dicom import dicom_slices
from training.phantom.archive_nifti import bids_name, nifti_bytes, sidecar_text
from training.phantom.lesion import LESIONS, MATERIAL, ONLY_SEX, intensity
from training.phantom.normal import NORMAL
from training.phantom.person import Person, draw_person
from training.phantom.physics import (
    balanced_gradient_echo,
    diffusion_weighted,
    enhanced_t1_ms,
    inversion_recovery,
    null_time_ms,
    spin_echo,
    spoiled_gradient_echo,
    tissue_signal,
)
from training.phantom.protocol import SEQUENCES, draw_protocol
from training.phantom.report import NO_LESION, WEIGHTING
from training.phantom.scanner import Geometry, acquire, draw_geometry, rician
from training.phantom.series import PhantomSeries, make_patient
from training.phantom.tissue import Tissue, tissue_values

COARSE_MM = 4.0
LESION_TEST_MM = {"brain": 3.0, "knee": 2.5, "abdomen": 5.0, "spine": 3.0, "pelvis": 5.0, "breast": 3.0, "heart": 4.0}
DISEASES = [(region, name) for region, names in LESIONS.items() for name in names]


def coarse(
    seed: int, region: str | None = None, sequences: list[str] | None = None, **more: object
) -> list[PhantomSeries]:
    return make_patient(seed, region, sequences, voxel_mm=COARSE_MM, max_voxels=48, **more)  # type: ignore[arg-type]


def person(decline: float = 0.3, sex: str = "F") -> Person:
    return Person(25 + 60 * decline, sex, 1.0, 0.3, decline)


# Signal equations


def test_signal_equations_give_the_values_worked_out_by_hand() -> None:
    assert spin_echo(0.8, 1000, 100, 500, 100) == pytest.approx(0.1157994, rel=1e-6)
    assert inversion_recovery(1.0, 1000, 100, 1e9, 0, 1000) == pytest.approx(1 - 2 / np.e, rel=1e-9)
    assert spoiled_gradient_echo(1.0, 1000, 50, 1e9, 0, 90) == pytest.approx(1.0, rel=1e-9)
    assert spoiled_gradient_echo(1.0, 1000, 50, 1000, 50, 90) == pytest.approx((1 - np.exp(-1)) * np.exp(-1), rel=1e-9)
    assert enhanced_t1_ms(1000.0, 1.0) == pytest.approx(1000 / 5.3, rel=1e-9)
    assert balanced_gradient_echo(1.0, 1000, 1000, 1e-3, 0, 90) == pytest.approx(0.5, rel=1e-5)
    assert balanced_gradient_echo(1.0, 1000, 100, 1e-3, 0, 90) == pytest.approx(1 / (1 + 10), rel=1e-4)
    assert diffusion_weighted(1.0, 80, 0.8, 80, 1000) == pytest.approx(np.exp(-1) * np.exp(-0.8), rel=1e-9)


@given(t1_ms=st.floats(200, 4500), tr_ms=st.floats(2000, 12000))
def test_a_tissue_at_its_null_time_gives_no_signal(t1_ms: float, tr_ms: float) -> None:
    assert inversion_recovery(1.0, t1_ms, 100, tr_ms, 0, null_time_ms(t1_ms, tr_ms)) == pytest.approx(0, abs=1e-9)


@given(t1_ms=st.floats(200, 4000), tr_ms=st.floats(5, 800))
def test_gradient_echo_is_brightest_at_the_ernst_angle(t1_ms: float, tr_ms: float) -> None:
    angles = np.linspace(0.5, 90, 3000)
    signals = spoiled_gradient_echo(1.0, t1_ms, 50, tr_ms, 5, angles)  # type: ignore[arg-type]
    assert angles[int(np.argmax(signals))] == pytest.approx(np.rad2deg(np.arccos(np.exp(-tr_ms / t1_ms))), abs=0.1)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), field_t=st.sampled_from([1.5, 3.0]), volumetric=st.booleans())
def test_every_protocol_orders_the_tissues_as_a_radiologist_expects(
    seed: int, field_t: float, volumetric: bool
) -> None:
    def signals(sequence: str) -> np.ndarray:
        return tissue_signal(draw_protocol(sequence, "brain", field_t, volumetric, np.random.default_rng(seed)))

    gray, white, csf = Tissue.GRAY_MATTER, Tissue.WHITE_MATTER, Tissue.CSF
    t1, t2, flair, stir, adc, dwi = (signals(s) for s in ("T1", "T2", "FLAIR", "STIR", "ADC", "DWI"))
    assert csf == min((gray, white, csf), key=lambda t: t1[t])
    assert t1[white] > t1[gray]
    assert min(t2[csf], t2[gray]) > 1.1 * t2[white]
    assert max(flair[csf], flair[gray]) < flair[Tissue.PLAQUE]
    assert stir[Tissue.FAT] < 0.5 * stir[Tissue.MUSCLE]
    assert adc[csf] == max(adc[:50]) > 3 * adc[gray] > 3 * adc[Tissue.INFARCT]
    assert dwi[Tissue.INFARCT] > 1.3 * dwi[gray] > dwi[csf]


@pytest.mark.parametrize(("sequence", "longest"), [("T2", 200), ("FLAIR", 145)])
def test_refocusing_below_180_degrees_shows_less_t2_than_the_header_says(sequence: str, longest: float) -> None:
    """As an echo of the shorter time would, with the header's own echo time kept; shares are drawn from low to whole."""
    drawn = [draw_protocol(sequence, "brain", 3.0, False, np.random.default_rng(seed)) for seed in range(40)]
    for protocol in drawn:
        shorter = replace(protocol, echo_time_ms=protocol.echo_time_ms * protocol.t2_share, t2_share=1.0)
        assert np.array_equal(tissue_signal(protocol), tissue_signal(shorter))
        assert 80 <= protocol.echo_time_ms <= longest
    shares = [protocol.t2_share for protocol in drawn]
    assert min(shares) < 0.5 and max(shares) > 0.9


@pytest.mark.parametrize("sequence", ["T2", "FLAIR"])
def test_fat_is_bright_in_a_train_of_echoes_and_in_nothing_else(sequence: str) -> None:
    drawn = [draw_protocol(sequence, "brain", 3.0, True, np.random.default_rng(seed)) for seed in range(40)]
    for protocol in drawn:
        plain, bright = tissue_signal(replace(protocol, fat_gain=1.0)), tissue_signal(protocol)
        fat = np.isin(np.arange(len(plain)), [Tissue.FAT, Tissue.FATTY_MARROW])
        np.testing.assert_allclose(bright[fat], protocol.fat_gain * plain[fat], rtol=1e-6)
        assert np.array_equal(bright[~fat], plain[~fat])
    gains = [protocol.fat_gain for protocol in drawn]
    assert 1.0 <= min(gains) < 1.2 and 1.6 < max(gains) < 1.8
    assert draw_protocol("T1", "brain", 3.0, True, np.random.default_rng(0)).fat_gain == 1.0


def test_contrast_agent_brightens_what_takes_it_up() -> None:
    plain, enhanced = (
        tissue_signal(draw_protocol(name, "brain", 1.5, False, np.random.default_rng(3))) for name in ("T1", "T1C")
    )
    assert enhanced[Tissue.TUMOUR] > 1.4 * plain[Tissue.TUMOUR]
    assert enhanced[Tissue.WHITE_MATTER] == pytest.approx(plain[Tissue.WHITE_MATTER], rel=0.12)


def test_every_tissue_has_physical_properties() -> None:
    for field_t in (1.5, 3.0):
        t1, t2, t2star = (tissue_values(name, field_t) for name in ("t1_ms", "t2_ms", "t2star_ms"))
        assert t1.shape == (len(Tissue),)
        assert ((t1 > t2) & (t2 > t2star) & (t2star > 0)).all()
    with pytest.raises(KeyError):
        tissue_values("colour")


# The scanner


def blob(place_mm: np.ndarray, deviation_mm: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian of known centre on an isotropic 2 mm grid, and the grid's affine."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -60
    grid = np.stack(np.meshgrid(*(np.arange(61) * 2.0 - 60,) * 3, indexing="ij"))
    distance = ((grid - place_mm.reshape(3, 1, 1, 1)) ** 2).sum(0)
    return np.exp(-distance / (2 * deviation_mm**2)).astype(np.float32), affine


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), plane=st.sampled_from(["axial", "sagittal", "coronal", "3d"]))
def test_an_acquired_blob_lies_where_it_was_and_keeps_its_mass(seed: int, plane: str) -> None:
    rng = np.random.default_rng(seed)
    place = rng.uniform(-15, 15, 3)
    signal, affine = blob(place)
    geometry = draw_geometry(plane, np.zeros(3), np.array([120.0, 120.0, 120.0]), rng, 48, part_chance=0.0)
    image = acquire(signal, affine, geometry)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij"), -1)
    centroid = np.average(index.reshape(-1, 3), axis=0, weights=image.ravel().astype(float))
    assert geometry.affine_mm[:3, :3] @ centroid + geometry.affine_mm[:3, 3] == pytest.approx(place, abs=0.4)
    voxel_volume = abs(np.linalg.det(geometry.affine_mm[:3, :3]))
    assert image.sum() * voxel_volume == pytest.approx(float(signal.sum()) * 8.0, rel=0.03)


def test_a_thick_slice_mixes_what_lies_in_it() -> None:
    signal, affine = np.zeros((61, 61, 61), np.float32), blob(np.zeros(3))[1]
    signal[:, :, 30] = 1.0  # a plate 2 mm thick at z = 0
    peaks = []
    for thickness in (2.0, 8.0):
        target = np.diag([4.0, 4.0, thickness, 1.0])
        target[:3, 3] = [-40, -40, -4 * thickness]
        geometry = Geometry((20, 20, 9), target, "axial", thickness)
        peaks.append(float(acquire(signal, affine, geometry)[10, 10, 4]))
    assert peaks[0] > 0.7
    assert peaks[1] == pytest.approx(2 / (8 / 2.355 * np.sqrt(2 * np.pi)), rel=0.05)


def test_noise_is_rician(rng: np.random.Generator) -> None:
    dark, bright = (rician(np.full((60, 60, 60), level, np.float32), 2.0, rng) for level in (0.0, 50.0))
    assert dark.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)
    assert bright.mean() == pytest.approx(np.hypot(50, 2) - 2 / 50, rel=0.002)
    assert bright.std() == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "3d"])
def test_geometry_is_of_the_plane_it_is_called(plane: str) -> None:
    for seed in range(10):
        geometry = draw_geometry(plane, np.zeros(3), np.array([170, 210, 160]), np.random.default_rng(seed), 96)
        spacing, axes = geometry.spacing_mm, geometry.affine_mm[:3, :3]
        assert max(geometry.shape) <= 96
        assert (np.abs(axes).argmax(0) == [0, 1, 2]).all() and (np.diag(axes) > 0).all()
        if plane == "3d":
            assert spacing.max() < 1.35 * spacing.min()
        else:
            assert spacing.argmax() == {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
            assert spacing.max() >= 1.35 * spacing.min()
            assert geometry.thickness_mm <= spacing.max() * 1.0001


# Anatomy


def centroid_mm(labels: np.ndarray, affine_mm: np.ndarray, *tissues: Tissue) -> np.ndarray:
    return affine_mm[:3, :3] @ np.argwhere(np.isin(labels, tissues)).mean(0) + affine_mm[:3, 3]


def test_organs_lie_on_their_side_of_the_body() -> None:
    for seed in range(3):
        space = BUILDERS["abdomen"](person(), np.random.default_rng(seed), COARSE_MM)
        liver, spleen, cord = (
            centroid_mm(space.labels, space.affine_mm, t) for t in (Tissue.LIVER, Tissue.SPLEEN, Tissue.CORD)
        )
        assert liver[0] > 30 and spleen[0] < -50 and cord[1] < liver[1] - 30
        head = BUILDERS["brain"](person(), np.random.default_rng(seed), COARSE_MM)
        eyes, brain = (centroid_mm(head.labels, head.affine_mm, t) for t in (Tissue.VITREOUS, Tissue.WHITE_MATTER))
        assert eyes[1] > brain[1] + 40 and eyes[2] < brain[2] - 15


def test_age_widens_ventricles_and_thins_the_cortex() -> None:
    middle, cortex = [], []
    for decline in (0.0, 0.35, 0.7, 1.05):
        space = BUILDERS["brain"](person(decline), np.random.default_rng(5), 3.0)
        near = (np.abs(space.points_mm[0]) < 28) & (np.abs(space.points_mm[1] + 10) < 48)
        near &= (space.points_mm[2] > 2) & (space.points_mm[2] < 26) & (np.abs(space.points_mm[0]) > 3)
        middle.append(int((space.labels[near] == Tissue.CSF).sum()))
        cortex.append(int((space.labels == Tissue.GRAY_MATTER).sum()))
    assert middle == sorted(middle) and middle[-1] > 1.8 * middle[0]
    assert cortex == sorted(cortex, reverse=True) and cortex[-1] < 0.9 * cortex[0]


def test_decline_follows_age() -> None:
    people = [draw_person(np.random.default_rng(seed)) for seed in range(300)]
    ages, declines = (np.array([getattr(p, name) for p in people]) for name in ("age_years", "decline"))
    assert np.corrcoef(ages, declines)[0, 1] > 0.85
    assert ages.min() >= 18 and ages.max() <= 90
    assert 0.4 < np.mean([p.sex == "F" for p in people]) < 0.6


def test_a_brain_has_about_the_volumes_of_a_brain() -> None:
    litres = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        space = BUILDERS["brain"](draw_person(rng), rng, 2.5)
        counts = np.bincount(space.labels.ravel(), minlength=len(Tissue)) * 2.5**3 * 1e-6
        litres.append(counts[[Tissue.GRAY_MATTER, Tissue.WHITE_MATTER, Tissue.DEEP_GRAY]])
    gray, white, _ = np.mean(litres, 0)
    assert 0.4 < gray < 0.9 and 0.35 < white < 0.8


@pytest.mark.parametrize(("region", "diagnosis"), DISEASES)
def test_a_lesion_lies_in_the_body_and_shows(region: str, diagnosis: str) -> None:
    from scipy.ndimage import binary_dilation

    sex = ONLY_SEX.get(diagnosis, "F")
    anatomy = make_anatomy(region, person(sex=sex), np.random.default_rng(4), LESION_TEST_MM[region], diagnosis)
    mask = anatomy.lesion_mask
    assert anatomy.finding.diagnosis == diagnosis and anatomy.finding.place
    assert mask.any() and (anatomy.labels[mask] != Tissue.AIR).all()
    assert mask.sum() < 0.1 * (anatomy.labels != Tissue.AIR).sum()
    centre, extent = anatomy.field_mm("axial", False)
    place = anatomy.affine_mm[:3, :3] @ np.argwhere(mask).mean(0) + anatomy.affine_mm[:3, 3]
    assert (np.abs(place - centre) < 0.55 * extent).all()
    ring = binary_dilation(mask, iterations=2) & ~binary_dilation(mask) & (anatomy.labels != Tissue.AIR)
    contrasts = []
    for sequence in ("T1", "T2", "FLAIR", "STIR"):
        signal = tissue_signal(draw_protocol(sequence, region, 1.5, False, np.random.default_rng(0)))[anatomy.labels]
        inside, outside = float(signal[mask].mean()), float(signal[ring].mean())
        contrasts.append(abs(inside - outside) / max(inside, outside))
    assert max(contrasts) > 0.25


def test_brain_lesions_are_bright_on_flair_against_the_brain_around_them() -> None:
    from scipy.ndimage import binary_dilation

    for diagnosis in ("multiple sclerosis", "brain tumour", "stroke"):
        series = make_patient(21, "brain", ["FLAIR"], diagnosis=diagnosis, skull_stripped=True, voxel_mm=2.5)[0]
        image, mask = series.volume.data[0], series.lesion_mask[0]
        ring = binary_dilation(mask, iterations=3) & ~binary_dilation(mask) & (image > 0)
        assert series.labels["lesion"] == "yes"
        assert np.median(image[mask]) > 1.1 * np.median(image[ring])


def test_the_side_that_a_report_names_is_the_side_of_the_mask() -> None:
    for seed in range(5):
        anatomy = make_anatomy("brain", person(), np.random.default_rng(seed), COARSE_MM, "brain tumour")
        x = (anatomy.affine_mm[:3, :3] @ np.argwhere(anatomy.lesion_mask).mean(0) + anatomy.affine_mm[:3, 3])[0]
        assert anatomy.finding.place.startswith("right" if x > 0 else "left")


# Patients


def test_one_seed_is_one_patient() -> None:
    first, again, other = coarse(7, "knee"), coarse(7, "knee"), coarse(8, "knee")
    assert [s.report for s in first] == [s.report for s in again]
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one.volume.data, two.volume.data) and np.array_equal(one.lesion_mask, two.lesion_mask)
        assert one.labels == two.labels and one.tags == two.tags
    assert not np.array_equal(first[0].volume.data.ravel()[:1000], other[0].volume.data.ravel()[:1000])


def test_asking_for_another_sequence_leaves_the_first_as_it_was() -> None:
    alone, among = coarse(3, "spine", ["T2"])[0], coarse(3, "spine", ["T2", "STIR", "T1"])[0]
    assert np.array_equal(alone.volume.data, among.volume.data)
    assert alone.labels == among.labels


@pytest.mark.parametrize("region", BUILDERS)
def test_every_sequence_of_every_region_is_a_sound_volume(region: str) -> None:
    assert region in FIELDS_MM and region in VOXEL_MM and region in NORMAL
    for sequence, series in zip(SEQUENCES, coarse(11, region, list(SEQUENCES)), strict=True):
        data = series.volume.data
        assert data.dtype == np.float32 and np.isfinite(data).all() and data.min() >= 0 and data.std() > 0
        assert series.lesion_mask.shape == data.shape and max(data.shape) <= 48
        assert series.labels["sequence"] == sequence and series.labels["body_region"] == region
        assert series.labels["contrast"] == ("yes" if sequence in ("T1C", "DCE") else "no")
        assert (series.labels["lesion"] == "yes") == bool(series.lesion_mask.any())
        assert (series.labels["diagnosis"] == "healthy") == (series.labels["lesion"] == "no")
        assert (series.tags["inversion_time_ms"] is not None) or sequence not in ("FLAIR", "STIR")


def litres_shown(series: PhantomSeries) -> float:
    """Of tissue that is not dark."""
    data = series.volume.data[0]
    return float((data > 0.2 * np.percentile(data, 99)).sum() * series.volume.spacing_mm.prod() * 1e-6)


def test_skull_stripping_leaves_only_brain() -> None:
    for seed in (5, 6, 8):
        whole, stripped = (
            coarse(seed, "brain", ["PD"], skull_stripped=flag, diagnosis="healthy")[0] for flag in (False, True)
        )
        assert (stripped.labels["skull_stripped"], whole.labels["skull_stripped"]) == ("yes", "no")
        assert (stripped.volume.data == 0).mean() > 0.3
        assert litres_shown(whole) > 1.6 * litres_shown(stripped)


def test_unknown_wishes_are_told_in_a_sentence() -> None:
    for wish in ({"region": "elbow"}, {"sequences": ["T9"]}, {"region": "knee", "diagnosis": "stroke"}):
        with pytest.raises(DecipherError) as caught:
            make_patient(0, voxel_mm=COARSE_MM, **wish)
        assert caught.value.hint


# Reports


def test_reports_agree_with_labels() -> None:
    series = [s for seed in range(9) for s in coarse(seed)]
    assert len({s.report for s in series}) > 0.95 * len(series)
    for one in series:
        text, labels = one.report, one.labels
        assert any(word.lower() in text.lower() for word in WEIGHTING[labels["sequence"]])
        assert any(sentence in text for sentence in NO_LESION) == (labels["lesion"] == "no")
        for sentence, against in NORMAL[labels["body_region"]]:
            assert sentence not in text or labels["diagnosis"] not in against
        if "year-old" in text:
            assert f"{labels['age_years']:.0f}-year-old {'woman' if labels['sex'] == 'F' else 'man'}" in text
        if labels["skull_stripped"] == "no":
            assert "kull-stripped" not in text


def test_intensity_words_follow_the_signal() -> None:
    assert set(MATERIAL) == {name for _, name in DISEASES}
    signal = np.ones(len(Tissue))
    signal[Tissue.CYST] = 2.0
    assert intensity("liver cyst", signal) == "hyperintense"
    signal[Tissue.CYST] = 0.5
    assert intensity("liver cyst", signal) == "hypointense"
    assert intensity("liver metastases", signal) == "isointense"
    assert intensity("healthy", signal) == ""


# Files


def series_of_plane(plane: str) -> PhantomSeries:
    return next(s for seed in range(99) for s in coarse(seed, "knee", ["PD"]) if s.labels["plane"] == plane)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "3d"])
def test_dicom_puts_every_voxel_where_the_volume_has_it(plane: str) -> None:
    import pydicom

    series = series_of_plane(plane)
    slices = [pydicom.dcmread(BytesIO(content)) for content in dicom_slices(series, "P", "20240101", 1)]
    to_voxel = np.linalg.inv(series.volume.affine_mm)
    first = slices[0]
    right, down = np.array(first.ImageOrientationPatient[:3]), np.array(first.ImageOrientationPatient[3:])
    assert np.cross(right, down) @ np.cross(right, down) == pytest.approx(1, abs=1e-5)
    rows, columns = np.meshgrid(np.arange(first.Rows), np.arange(first.Columns), indexing="ij")
    seen = 0
    for image in slices:
        across, along = (
            rows[..., None] * image.PixelSpacing[0] * down,
            columns[..., None] * image.PixelSpacing[1] * right,
        )
        place_lps = np.array(image.ImagePositionPatient, float) + across + along
        place_ras = place_lps * [-1, -1, 1]
        index = place_ras @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        assert np.abs(index - np.rint(index)).max() < 1e-3
        i, j, k = np.rint(index).astype(int).transpose(2, 0, 1)
        assert np.array_equal(image.pixel_array, np.rint(series.volume.data[0][i, j, k]))
        seen += i.size
    assert seen == series.volume.data.size
    assert float(first.RepetitionTime) == series.tags["repetition_time_ms"]
    assert first.PatientAge == f"{int(series.labels['age_years']):03d}Y"
    assert len({image.SOPInstanceUID for image in slices}) == len(slices)


def test_nifti_keeps_affine_voxels_and_timing() -> None:
    import nibabel

    series = coarse(2, "brain", ["FLAIR"])[0]
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(nifti_bytes(series)))
    assert image.affine == pytest.approx(series.volume.affine_mm, abs=1e-3)
    assert np.array_equal(np.asarray(image.dataobj), np.rint(series.volume.data[0]).astype(np.int16))
    sidecar = json.loads(sidecar_text(series))
    assert sidecar["InversionTime"] * 1000 == pytest.approx(series.tags["inversion_time_ms"], abs=0.01)
    assert bids_name(series, "sub-02", 1).startswith("sub-02/anat/sub-02_") and bids_name(series, "sub-02", 1).endswith(
        "_FLAIR"
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_archive_is_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    counts = [
        make_archive(tmp_path / name, patients=2, seed=seed, voxel_mm=COARSE_MM, max_voxels=32)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    first, again, other = (tree(tmp_path / name) for name in "abc")
    assert first == again and first != other
    assert counts[0]["series"] == counts[0]["format"]["dicom"] + counts[0]["format"]["nifti"]
    assert counts[0]["files"] == len(first) - 1  # all but the hidden list

    labels = list(csv.DictReader((tmp_path / "a" / "labels.csv").open()))
    reports = {row["path"]: row["report"] for row in csv.DictReader((tmp_path / "a" / "reports.csv").open())}
    assert tuple(labels[0]) == LABEL_COLUMNS and len(labels) == counts[0]["series"] == len(reports)
    for row in labels:
        path = tmp_path / "a" / row["path"]
        assert row["path"].endswith("/") == path.is_dir() == row["path"].startswith("dicom/")
        assert path.exists() and reports[row["path"]]


def test_archive_holds_one_file_that_cannot_be_read(tmp_path: Path) -> None:
    import pydicom

    make_archive(tmp_path, patients=1, voxel_mm=COARSE_MM, max_voxels=24)
    broken = pydicom.dcmread(tmp_path / "broken.dcm", force=True)
    with pytest.raises((ValueError, AttributeError)):
        _ = broken.pixel_array
    make_archive(tmp_path, patients=1, voxel_mm=COARSE_MM, max_voxels=24, broken=False)
    assert not (tmp_path / "broken.dcm").exists()


def test_archive_never_touches_what_it_did_not_make(tmp_path: Path) -> None:
    make_archive(tmp_path, patients=1, voxel_mm=COARSE_MM, max_voxels=24, formats=("nifti",))
    (tmp_path / "nifti" / "mine.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(DecipherError, match=r"mine\.txt"):
        make_archive(tmp_path, patients=1, voxel_mm=COARSE_MM, max_voxels=24)
    assert tree(tmp_path) == before
    with pytest.raises(DecipherError):
        make_archive(tmp_path / "new", formats=("tiff",))
    assert not (tmp_path / "new").exists()
