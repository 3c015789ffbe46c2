"""Decoders and their figures against plain computations; what they learn, and that the encoder runs once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.decoder import KINDS, Decoder, DecoderConfig, decoder_config
from models.errors import DecipherError
from models.prepare import prepare
from models.view import View, inside, standardised
from models.volume import Volume
from training.decode import Fit, summary
from training.decoding import (
    THRESHOLDS,
    Learning,
    Lesson,
    best_threshold,
    canvas_map,
    drawn,
    intensity,
    mean_shape,
    segmentation_loss,
    train_decoder,
)
from training.features import Features
from training.overlap import (
    box_figures,
    boxes_in,
    case_figures,
    dice,
    lesion_counts,
    surface_distances_mm,
    without_strays,
)
from training.phantom.series import make_patient
from training.regrid import shares_in_box, to_volume
from training.saved_decoder import check_encoder, load_decoder, save_decoder
from training.windows import views_of

TINY = ModelConfig(
    prepare=PrepareConfig(box=(32, 32, 32)), vision=VisionConfig(width=48, depth=1, heads=3, registers=1)
)
CPU = torch.device("cpu")


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return ((grid - np.array(centre)) ** 2).sum(axis=-1) <= radius**2


@pytest.fixture(scope="module")
def model() -> Decipher:
    torch.manual_seed(0)
    return Decipher(TINY).eval()


@pytest.fixture(scope="module")
def lesson(model: Decipher) -> Lesson:
    """Three digital patients with a large lesion, a box each, as a decoder learns of them."""
    series = [make_patient(seed, "brain", ["FLAIR"], diagnosis="brain tumour", voxel_mm=3.0)[0] for seed in (12, 7, 13)]
    seen = [views_of(model, one.volume, prepare(one.volume, TINY.prepare), finest_mm=0) for one in series]
    patches, pixels, content, level = (
        np.concatenate([getattr(view, name).numpy() for view, _ in seen])
        for name in ("patches", "pixels", "content", "level")
    )
    layouts = [layout for _, layout in seen]
    targets = [
        shares_in_box(one.lesion_mask[0], one.volume.affine_mm, layout.affine_mm, layout.shape)
        for one, layout in zip(series, layouts, strict=True)
    ]
    features = Features(patches.astype(np.float16), pixels[:, 0].astype(np.float16), content, level, {}, {})
    rows = np.arange(3)
    return Lesson(features, np.stack(targets).astype(np.float16), rows, rows, layouts, None, np.array(["", "", ""]))


# --- geometry: a volume's grid, the encoder's box, and back

AFFINES = {
    "straight": np.diag([2.0, 2.0, 3.0, 1.0]),
    "oblique": np.array([[1.9, 0.3, 0.2, -40], [-0.35, 1.8, 0.5, 20], [-0.1, -0.4, 3.1, 7], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_mask_carried_to_the_box_and_back_is_the_same_object(affine: np.ndarray, rng: np.random.Generator) -> None:
    shape = (60, 70, 34)
    head, mask = ball(shape, (30, 33, 17), 29), ball(shape, (34, 40, 15), 11)
    volume = Volume((head * 100 + rng.random(shape)).astype(np.float32)[None], affine)
    box = prepare(volume, PrepareConfig(box=(48, 48, 48)))
    shares = shares_in_box(mask, affine, box.affine_mm.numpy(), (48, 48, 48))
    back = to_volume(shares, box.content.numpy(), affine, box.affine_mm.numpy(), shape) > 0.5
    assert dice(mask, back) > 0.9
    voxel_mm3 = abs(np.linalg.det(box.affine_mm.numpy()[:3, :3]))
    assert shares.sum() * voxel_mm3 == pytest.approx(mask.sum() * abs(np.linalg.det(affine[:3, :3])), rel=1e-4)


def test_a_map_of_coordinates_lies_where_the_affines_say(rng: np.random.Generator) -> None:
    volume = Volume(rng.random((1, 40, 50, 20)).astype(np.float32) + 1, AFFINES["oblique"])
    box = prepare(volume, PrepareConfig(box=(32, 32, 32)))
    affine, content = box.affine_mm.numpy(), box.content.numpy()
    places = np.stack([*np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), np.ones((32, 32, 32))], axis=-1)
    inner = (slice(4, 36), slice(4, 46), slice(4, 16))
    voxels = np.stack([*np.meshgrid(*map(np.arange, (40, 50, 20)), indexing="ij"), np.ones((40, 50, 20))], axis=-1)
    for axis in range(3):
        found = to_volume(places @ affine[axis], content, volume.affine_mm, affine, (40, 50, 20))
        np.testing.assert_allclose(found[inner], (voxels @ volume.affine_mm[axis])[inner], atol=1e-3)


def test_nothing_is_said_beyond_the_box() -> None:
    data = np.zeros((1, 40, 40, 40), np.float32)
    data[0, 14:26, 14:26, 14:26] = 100
    volume = Volume(data, np.eye(4))
    box = prepare(volume, PrepareConfig(box=(16, 16, 16)))
    found = to_volume(np.ones((16, 16, 16)), box.content.numpy(), np.eye(4), box.affine_mm.numpy(), (40, 40, 40))
    assert found[20, 20, 20] == 1 and found[0, 0, 0] == 0 and 12**3 <= found.sum() < 20**3


# --- figures against plain computations


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.6), st.floats(0.01, 0.6))
def test_figures_against_plain_computations(seed: int, one: float, other: float) -> None:
    rng = np.random.default_rng(seed)
    truth, found = rng.random((6, 7, 5)) < one, rng.random((6, 7, 5)) < other
    truth[2, 3, 1] = found[4, 4, 4] = True
    spacing = rng.uniform(0.5, 4, 3)
    assert dice(truth, found) == pytest.approx(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    borders = [np.argwhere(mask & ~surrounded(mask)) * spacing for mask in (truth, found)]
    apart = np.linalg.norm(borders[0][:, None] - borders[1][None], axis=-1)
    ways = [apart.min(axis=1), apart.min(axis=0)]
    hd95_mm, mean_mm = surface_distances_mm(truth, found, spacing)
    assert hd95_mm == pytest.approx(max(np.percentile(way, 95) for way in ways))
    assert mean_mm == pytest.approx(np.concatenate(ways).mean())


def surrounded(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    sides = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (-1, 1)]
    return np.logical_and.reduce(sides)


def test_monai_says_the_same(rng: np.random.Generator) -> None:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    truth, found = ball((24, 24, 16), (11, 12, 8), 6), ball((24, 24, 16), (13, 11, 8), 5)
    pair = [torch.from_numpy(mask)[None, None] for mask in (found, truth)]
    hd95_mm, mean_mm = surface_distances_mm(truth, found, np.array([1.5, 1.0, 2.0]))
    options = {"include_background": True, "spacing": [1.5, 1.0, 2.0]}
    assert hd95_mm == pytest.approx(float(compute_hausdorff_distance(*pair, percentile=95, **options)), rel=1e-5)
    assert mean_mm == pytest.approx(float(compute_average_surface_distance(*pair, symmetric=True, **options)), rel=1e-5)


def test_lesions_are_counted_one_by_one() -> None:
    truth, found = np.zeros((2, 20, 20, 20), bool)
    truth[2:5, 2:5, 2:5] = truth[10:12, 10:12, 10:12] = truth[17, 17, 17] = True
    truth[18, 18, 18] = True  # joined to the voxel before by a corner
    found[4:7, 4:7, 4:7] = found[17, 17, 17] = found[2, 15, 15] = True
    assert lesion_counts(truth, found) == (2, 1, 1)
    assert lesion_counts(truth, np.zeros_like(truth)) == (0, 0, 3)
    assert lesion_counts(np.zeros_like(truth), found) == (0, 3, 0)


def test_boxes_by_hand() -> None:
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    truth, found = np.zeros((2, 30, 30, 30), bool)
    truth[4:8, 4:8, 4:8] = True
    found[6:10, 4:8, 4:8] = True
    iou, centre_mm = box_figures(truth, found, affine)
    assert iou == pytest.approx(2 / 6) and centre_mm == pytest.approx(4.0)
    found[25, 25, 25] = True  # a stray voxel changes nothing
    assert box_figures(truth, found, affine) == (iou, centre_mm)
    assert without_strays(found).sum() == 64
    assert box_figures(truth, np.zeros_like(truth), affine)[0] == 0
    first, second = boxes_in(found, affine)
    assert first["centre_mm"] == [15.0, 5.5, 16.5] and first["extent_mm"] == [8.0, 4.0, 12.0]
    assert first["volume_ml"] == pytest.approx(64 * 6 / 1000) and second["low"] == [25, 25, 25]


def test_empty_masks_tell_of_false_alarms_alone() -> None:
    empty, some = np.zeros((8, 8, 8), bool), ball((8, 8, 8), (4, 4, 4), 2)
    pairs = [(empty, empty), (empty, some), (some, some), (some, empty)]
    rows, who = [case_figures(truth, found, np.eye(4)) for truth, found in pairs], np.array(list("abcd"))
    assert [summary(name, rows, who)["value"] for name in ("dice", "found", "false_alarms", "hd95_mm", "lesion_f1")] == [
        0.5, 0.5, 0.5, 0.0, 0.5
    ]  # fmt: skip
    assert summary("dice", rows[:2], who[:2]) == {"value": None, "low": None, "high": None}


def test_the_interval_of_a_mean_is_that_of_a_bootstrap(rng: np.random.Generator) -> None:
    values = rng.normal(0.6, 0.1, 200)
    found = summary("dice", [{"dice": float(v)} for v in values], np.arange(200).astype(str))
    error = values.std() / np.sqrt(200)
    assert found["value"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert found["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


# --- decoders


def test_the_loss_by_hand(rng: np.random.Generator) -> None:
    logits, shares = rng.normal(size=(2, 1, 3, 4, 5)), rng.random((2, 1, 3, 4, 5)) ** 3
    data = rng.random((2, 1, 3, 4, 5)) < 0.7
    said = 1 / (1 + np.exp(-logits))
    marked = shares[data].mean()
    heavy = 1 + (max(1, np.sqrt((1 - marked) / marked)) - 1) * shares[data]
    entropy = np.average(-(shares * np.log(said) + (1 - shares) * np.log(1 - said))[data], weights=heavy)
    overlap = (2 * (said * shares)[data].sum() + 1) / (said[data].sum() + shares[data].sum() + 1)
    found = segmentation_loss(*(torch.from_numpy(one) for one in (logits, shares, data)))
    assert float(found) == pytest.approx(entropy + 1 - overlap, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_decoder_learns_by_its_patches(kind: str, lesson: Lesson) -> None:
    decoder = Decoder(decoder_config(TINY, kind))
    decoder.expect(0.02)
    view = lesson.features.view([0, 2], CPU)
    view.patches.requires_grad_()
    logits = decoder(view)
    assert logits.shape == (2, 1, 32, 32, 32)
    logits.square().mean().backward()
    assert view.patches.grad is not None and float(view.patches.grad.abs().sum()) > 0


def test_a_guided_decoder_answers_to_its_query(model: Decipher, lesson: Lesson) -> None:
    torch.manual_seed(0)
    decoder = Decoder(decoder_config(TINY, "resnet", guided=True)).eval()
    view = lesson.features.view([0], CPU)
    lesion, kidney = model.encode_texts(["lesion", "left kidney"])
    with torch.inference_mode():
        first, second, again = (decoder(view, q[None]) for q in (lesion, kidney, lesion))
    assert torch.equal(first, again) and float((first - second).abs().max()) > 1e-3
    with pytest.raises(ValueError, match="needs a query"):
        decoder(view)


def test_inside_is_where_the_data_are(lesson: Lesson) -> None:
    view = lesson.features.view([0, 1, 2], CPU)
    for found, (i, j, k) in zip(inside(view), view.content.tolist(), strict=True):
        expected = np.zeros((1, 32, 32, 32), bool)
        expected[:, i[0] : i[1], j[0] : j[1], k[0] : k[1]] = True
        assert np.array_equal(found.numpy(), expected)


def test_unknown_decoders_are_refused() -> None:
    with pytest.raises(DecipherError, match="no decoder 'unet'"):
        DecoderConfig("unet", 8, (32, 32, 32), (8, 8, 8))
    with pytest.raises(DecipherError, match="does not fit patches"):
        DecoderConfig("unetr", 8, (36, 36, 36), (6, 6, 6))


def test_a_decoder_overfits_three_volumes(lesson: Lesson) -> None:
    cases, seen = np.arange(3), []
    learning = Learning(epochs=90)
    decoder = train_decoder(
        decoder_config(TINY, "resnet"), lesson, cases, learning, CPU, lambda epoch, _: seen.append(epoch)
    )
    assert seen == list(range(1, 91))
    threshold = best_threshold(lambda case: canvas_map(decoder, lesson, case, CPU), lesson, cases)
    found = [dice(lesson.targets[c] > 0.5, canvas_map(decoder, lesson, c, CPU) > threshold) for c in cases]
    assert np.mean(found) > 0.8


def test_the_threshold_is_the_best_of_all(lesson: Lesson, rng: np.random.Generator) -> None:
    maps = [np.clip(lesson.targets[c] * 0.5 + 0.3 * rng.random((32, 32, 32)), 0, 1) for c in range(3)]
    shares = lesson.targets.astype(np.float64)
    expected = [
        np.mean([2 * s[m > t].sum() / ((m > t).sum() + s.sum()) for m, s in zip(maps, shares, strict=True)])
        for t in THRESHOLDS
    ]
    assert best_threshold(lambda case: maps[case], lesson, np.arange(3)) == THRESHOLDS[int(np.argmax(expected))]


def test_baselines_by_hand(lesson: Lesson) -> None:
    only = mean_shape(lesson, np.array([1]))(1)
    body = tuple(slice(a, b) for a, b in lesson.layouts[1].content)
    target = lesson.targets[1].astype(np.float32)
    np.testing.assert_allclose(only[body], target[body], atol=0.6)
    assert np.corrcoef(only[body].ravel(), target[body].ravel())[0, 1] > 0.95
    assert mean_shape(lesson, np.array([0, 1]))(2).shape == (32, 32, 32)
    bright = intensity(lesson, np.array([0, 1]))(2)
    pixels, (mean, spread) = lesson.features.pixels[2].astype(np.float32), lesson.features.level[2]
    scaled = np.clip((pixels - mean) / spread / 8 + 0.5, 0, 1)
    assert np.allclose(bright, scaled, atol=1e-5) or np.allclose(
        bright, np.where(pixels > 0.2, 1 - scaled, 0), atol=1e-5
    )


def test_each_epoch_shows_marked_windows_and_others(lesson: Lesson, rng: np.random.Generator) -> None:
    case_of, marked = np.array([0] * 10 + [1] * 3 + [2]), np.array([True, *[False] * 9, *[True] * 3, False])
    many = lesson._replace(case_of=case_of)
    shown = np.array([drawn(many, np.array([0, 1, 2]), marked, 4, rng) for _ in range(50)])
    assert shown.shape == (50, 8), "four of the first, all of the others"
    assert all(len(set(rows)) == 8 and 0 in rows and {10, 11, 12, 13} <= set(rows) for rows in shown.tolist())
    assert set(shown.ravel()) == set(range(14)), "others are drawn anew"


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_says_the_same(kind: str, lesson: Lesson, tmp_path: Path) -> None:
    decoder = Decoder(decoder_config(TINY, kind)).eval()
    passport = {"name": "tiny", "hash": "ab", "dim": 384, "prepare": "cd"}
    fit = Fit(decoder, 0.35, ["lesion"], {"task": "segment"})
    save_decoder(fit, tmp_path / "lesions", "mini", passport)
    save_decoder(fit, tmp_path / "lesions", "mini", passport)
    assert {p.name for p in (tmp_path / "lesions").iterdir()} == {"config.json", "decoder.safetensors", "metrics.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["lesions"]
    saved = load_decoder(tmp_path / "lesions")
    assert (saved.threshold, saved.labels, saved.model, saved.task) == (0.35, ["lesion"], "mini", "segment")
    assert np.array_equal(canvas_map(saved.decoder, lesson, 1, CPU), canvas_map(decoder, lesson, 1, CPU))
    check_encoder(saved, {**passport, "name": "renamed"})
    with pytest.raises(DecipherError, match="fitted on model tiny"):
        check_encoder(saved, {**passport, "hash": "ef"})


def test_a_damaged_decoder_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DecipherError, match="no readable decoder"):
        load_decoder(tmp_path)
    with pytest.raises(DecipherError, match="something else"):
        save_decoder(Fit(Decoder(decoder_config(TINY, "linear")), 0.5, [""], {"task": "segment"}), tmp_path, "mini", {})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_views_keep_what_was_encoded(lesson: Lesson) -> None:
    view = lesson.features.view([1], CPU)
    assert isinstance(view, View) and view.pixels.shape == (1, 1, 32, 32, 32)
    assert torch.equal(view.patches[0], torch.from_numpy(lesson.features.patches[1]).float())
    body = view.pixels[(view.pixels > 0.2) & inside(view)]
    assert standardised(view)[(view.pixels > 0.2) & inside(view)].mean() == pytest.approx(0, abs=0.02)
    assert float(view.level[0, 1]) == pytest.approx(float(body.std()), rel=0.01)
