"""Windows of a canvas: they cover it, lie where the volume lies, and their maps come back to it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.decoder import decoder_config
from models.prepare import Prepared, canvas, prepare
from models.volume import Volume
from training.decoding import Learning, Lesson, best_threshold, canvas_map, train_decoder
from training.features import Features
from training.overlap import dice
from training.regrid import shares_in_box, to_volume
from training.windows import Layout, blend, cut, gaussian, laid, starts_along, views_of

TINY = ModelConfig(
    prepare=PrepareConfig(box=(16, 16, 16)), vision=VisionConfig(width=48, depth=1, heads=3, registers=1)
)
CPU = torch.device("cpu")
SHAPE = (48, 48, 48)


def head(rng: np.random.Generator, shape: tuple[int, int, int], affine: np.ndarray) -> Volume:
    """A noisy ellipsoid that fills most of its field of view."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij"), axis=-1)
    data = ((grid**2).sum(axis=-1) < 1) * 100.0 + rng.random(shape)
    return Volume(data.astype(np.float32)[None], affine)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Turned, anisotropic, anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    turned, _ = np.linalg.qr(np.eye(3) + 0.2 * rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turned * np.sign(np.diag(turned)) @ np.diag(rng.uniform(0.7, 3.0, 3))
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


@given(st.integers(1, 400), st.integers(4, 96))
def test_windows_cover_an_axis_and_overlap(edge: int, window: int) -> None:
    starts = starts_along(edge, window)
    assert starts[0] == 0 and starts[-1] == max(0, edge - window) and starts == sorted(set(starts))
    steps = np.diff(starts)
    assert (steps <= np.ceil(0.75 * window)).all()
    shown = {voxel for start in starts for voxel in range(start, start + window)}
    assert shown >= set(range(edge))


@settings(max_examples=20, deadline=None)
@given(affines(), st.tuples(*[st.integers(20, 60)] * 3), st.integers(0, 2**16))
def test_windows_lie_where_the_volume_lies(affine: np.ndarray, shape: tuple[int, int, int], seed: int) -> None:
    volume = head(np.random.default_rng(seed), shape, affine)
    whole = canvas(volume, TINY.prepare, finest_mm=1.0)
    layout = laid(whole, (16, 16, 16))
    shown = np.zeros(layout.shape, bool)
    for start in layout.starts:
        one = cut(whole, start, (16, 16, 16))
        voxel = np.array([3.0, 7.0, 11.0, 1.0])
        there = np.append(voxel[:3] + start, 1)
        np.testing.assert_allclose(one.affine_mm.numpy() @ voxel, layout.affine_mm @ there, atol=1e-6)
        low, high = one.content.numpy().T
        inner = np.zeros((16, 16, 16), bool)
        inner[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
        where = tuple(slice(a, a + 16) for a in start)
        assert np.array_equal(one.pixels[0].numpy(), whole.pixels[0].numpy()[where])
        shown[where] |= inner
    inside = tuple(slice(a, b) for a, b in layout.content)
    assert shown[inside].all() and shown.sum() == shown[inside].size
    places = np.stack([*np.meshgrid(*map(np.arange, layout.shape), indexing="ij"), np.ones(layout.shape)], axis=-1)
    middle = tuple(slice(n // 3, 2 * n // 3) for n in shape)
    voxels = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], axis=-1)
    for axis in range(3):
        found = to_volume(places @ layout.affine_mm[axis], layout.content, affine, layout.affine_mm, shape)
        np.testing.assert_allclose(found[middle], (voxels @ affine[axis])[middle], atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(16, 40)] * 3), st.floats(-5, 5))
def test_a_constant_map_stays_constant(shape: tuple[int, int, int], value: float) -> None:
    layout = laid(Prepared(*(torch.zeros(n) for n in ((1, *shape), (3, 2), 7, (4, 4)))), (16, 16, 16))
    np.testing.assert_allclose(blend(np.full((len(layout.starts), 16, 16, 16), value), layout), value, atol=1e-5)


def test_weights_are_those_of_monai() -> None:
    from monai.data.utils import compute_importance_map

    theirs = compute_importance_map((16, 12, 20), mode="gaussian", sigma_scale=0.125).numpy()
    np.testing.assert_allclose(gaussian((16, 12, 20)), np.maximum(theirs / theirs.max(), 1e-3), rtol=0.05, atol=1e-3)


def test_a_canvas_as_coarse_as_the_box_is_the_box(rng: np.random.Generator) -> None:
    volume = head(rng, (40, 44, 30), np.diag([1.0, 1.1, 2.0, 1.0]))
    box, whole = prepare(volume, TINY.prepare), canvas(volume, TINY.prepare, finest_mm=100.0)
    for name in Prepared.__dataclass_fields__:
        assert torch.equal(getattr(box, name), getattr(whole, name))
    window = cut(whole, (0, 0, 0), (16, 16, 16))
    assert torch.equal(window.pixels, box.pixels) and torch.equal(window.content, box.content)


def test_a_canvas_is_as_fine_as_the_volume_and_as_bright(rng: np.random.Generator) -> None:
    volume = head(rng, (40, 44, 30), np.diag([1.0, 1.0, 3.375, 1.0]))
    box, whole = prepare(volume, TINY.prepare), canvas(volume, TINY.prepare, finest_mm=1.0)
    assert float(whole.geometry[6].exp()) == pytest.approx(1.5)
    assert float(canvas(volume, TINY.prepare, finest_mm=2.0).geometry[6].exp()) == pytest.approx(2.0)
    assert float(box.geometry[6].exp()) > 4
    for prepared in (box, whole):
        middle = prepared.pixels[0][tuple(n // 2 for n in prepared.pixels.shape[1:])]
        assert float(middle) == pytest.approx(0.5, abs=0.01)


def test_a_huge_field_of_view_is_shown_in_coarser_voxels(rng: np.random.Generator) -> None:
    whole = canvas(head(rng, (150, 150, 150), np.eye(4)), TINY.prepare, finest_mm=1.0)
    assert 0.8 * 48 * 16**3 < whole.pixels.numel() < 1.2 * 48 * 16**3


def test_a_small_lesion_comes_back_from_windows_but_not_from_the_box(rng: np.random.Generator) -> None:
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    volume = head(rng, (60, 64, 44), affine)
    mask = spots(volume.data.shape[1:], rng, 12)
    found = {}
    for name, shown in {"box": prepare(volume, TINY.prepare), "windows": canvas(volume, TINY.prepare, 1.0)}.items():
        layout = laid(shown, (16, 16, 16))
        shares = shares_in_box(mask, affine, layout.affine_mm, layout.shape)
        maps = np.stack([shares[tuple(slice(a, a + 16) for a in start)] for start in layout.starts])
        back = to_volume(blend(maps, layout), layout.content, affine, layout.affine_mm, mask.shape)
        found[name] = dice(mask, back > 0.5)
    assert found["windows"] >= 0.95 and found["box"] < 0.5


def spots(shape: tuple[int, ...], rng: np.random.Generator, count: int) -> np.ndarray:
    """Cubes of 4 voxels' edge in the middle half."""
    mask = np.zeros(shape, bool)
    for _ in range(count):
        low = [int(rng.integers(n // 4, 3 * n // 4 - 4)) for n in shape]
        mask[tuple(slice(a, a + 4) for a in low)] = True
    return mask


# --- learning on windows


@pytest.fixture(scope="module")
def model() -> Decipher:
    torch.manual_seed(0)
    return Decipher(TINY).eval()


def lesson_of_spots(model: Decipher, finest_mm: float, patients: int) -> tuple[Lesson, list[np.ndarray]]:
    """Heads with spots of 4 mm, as bright as one shell of them; and the masks as drawn."""
    rng = np.random.default_rng(0)
    seen, masks = [], []
    for _ in range(patients):
        volume = head(rng, SHAPE, np.eye(4))
        masks.append(spots(SHAPE, rng, 8))
        volume.data[0][masks[-1]] += 40
        volume.data[0, :, :, 16:18] += 40 * (volume.data[0, :, :, 16:18] > 50)
        seen.append(views_of(model, volume, prepare(volume, TINY.prepare), finest_mm))
    layouts = [layout for _, layout in seen]
    targets = [targets_in(mask, layout) for mask, layout in zip(masks, layouts, strict=True)]
    patches, pixels, content, level = (
        np.concatenate([getattr(view, name).numpy() for view, _ in seen])
        for name in ("patches", "pixels", "content", "level")
    )
    features = Features(patches, pixels[:, 0], content, level, {}, {})
    case_of = np.repeat(np.arange(patients), [len(own) for own in targets])
    lesson = Lesson(features, np.concatenate(targets), np.arange(len(case_of)), case_of, layouts, None,
                    np.array([""] * patients))  # fmt: skip
    return lesson, masks


def targets_in(mask: np.ndarray, layout: Layout) -> np.ndarray:
    shares = shares_in_box(mask, np.eye(4), layout.affine_mm, layout.shape)
    return np.stack([shares[tuple(slice(a, a + 16) for a in start)] for start in layout.starts])


def held_out_dice(model: Decipher, finest_mm: float, patients: int, epochs: int) -> float:
    lesson, masks = lesson_of_spots(model, finest_mm, patients)
    train, config = np.arange(patients - 2), decoder_config(TINY, "resnet", finest_mm=finest_mm)
    decoder = train_decoder(config, lesson, train, Learning(epochs=epochs, windows=8), CPU, lambda *_: None)
    threshold = best_threshold(lambda case: canvas_map(decoder, lesson, case, CPU), lesson, train)
    found = []
    for case in (patients - 2, patients - 1):
        layout, values = lesson.layouts[case], canvas_map(decoder, lesson, case, CPU)
        there = to_volume(values, layout.content, np.eye(4), layout.affine_mm, SHAPE) > threshold
        found.append(dice(masks[case], there))
    return float(np.mean(found))


def test_small_lesions_are_learned_by_windows_and_not_by_the_box(model: Decipher) -> None:
    box, windows = (held_out_dice(model, finest_mm, patients=4, epochs=8) for finest_mm in (0.0, 1.0))
    assert windows > box + 0.2


@pytest.mark.slow
def test_windows_learn_what_is_a_lesion_and_what_only_as_bright(model: Decipher) -> None:
    box, windows = (held_out_dice(model, finest_mm, patients=6, epochs=12) for finest_mm in (0.0, 1.0))
    assert windows > 0.7 > box + 0.2


def test_patches_of_the_whole_box_stand_beside_those_of_a_window(model: Decipher, rng: np.random.Generator) -> None:
    volume = head(rng, (40, 40, 40), np.eye(4))
    box = prepare(volume, TINY.prepare)
    alone, layout = views_of(model, volume, box, finest_mm=0)
    assert layout.shape == (16, 16, 16) and torch.equal(alone.patches[..., :384], alone.patches[..., 384:])
    view, layout = views_of(model, volume, box, finest_mm=1.0)
    assert len(view.pixels) == len(layout.starts) == 27
    assert view.level.unique(dim=0).shape == (1, 2)
    far = alone.patches[0, :, 384:].reshape(2, 2, 2, 384)
    corner = view.patches[0, 0, 384:]
    assert torch.allclose(corner, far[0, 0, 0], atol=1e-5), "the first patch of the first window lies outside the first"
    middle = view.patches[13, :, 384:].mean(dim=0)
    assert torch.allclose(middle, far.mean(dim=(0, 1, 2)), atol=1e-3), "the middle window lies about the box's middle"


def test_the_shipped_encoder_sees_a_real_volume_in_windows(shared: Path) -> None:
    from index.nifti import read_part
    from models.decipher import load

    model = load()
    volume = read_part(shared / "mri/nifti/cbica-wmh/301D00252-20040121_FL.nii.gz", 0)
    view, layout = views_of(model, volume, prepare(volume, model.config.prepare), finest_mm=1.0)
    assert len(layout.starts) == len(view.patches) <= 24 and view.patches.isfinite().all()
    voxel_mm = np.linalg.norm(layout.affine_mm[:3, :3], axis=0)
    np.testing.assert_allclose(voxel_mm, np.prod(volume.spacing_mm) ** (1 / 3), rtol=0.05)
