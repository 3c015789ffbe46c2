"""The vectors of the model that ships, held against those on file: what a user has indexed stays what it was.

When the shipped model changes, make them anew: python tests/test_golden.py

Decisions
- The pictures are whole-number arithmetic on voxel indices: no random generator, no library and no phantom can change them.
- Vectors are compared number by number. Processors add in another order, which moves numbers of about 0.05 in their seventh
  digit; TOLERANCE is far above that, and far below what another model or another preparation gives.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from index.embed import vectors_of
from models.decipher import Decipher, load
from models.folder import passport
from models.prepare import collate, prepare
from models.volume import Volume
from training.phantom.series import make_patient

GOLDEN = Path(__file__).parent / "golden" / "vectors.npz"
TOLERANCE = 1e-4
TEXTS = ("T1-weighted MRI", "Axial FLAIR MRI of the brain with a hyperintense lesion.", "knee", "no lesion")
GRIDS = (
    ((64, 64, 64), (3.0, 3.0, 3.0), "T1"),
    ((120, 96, 22), (1.9, 1.9, 6.5), "T2"),
    ((20, 150, 150), (5.0, 1.2, 1.2), None),
    ((40, 30, 9), (4.0, 4.0, 12.0), "FLAIR"),
)
"""shape, spacing in mm, sequence"""


def picture(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], sequence: str | None) -> Volume:
    """An ellipsoid with a brighter shell, a dark and a bright ball in it, a fine texture and a faint noise of whole numbers."""
    i, j, k = np.meshgrid(*(np.arange(n, dtype=np.int64) for n in shape), indexing="ij")

    def inside(centre: tuple[int, int, int], radius: int) -> np.ndarray:
        """Of an ellipsoid that spans radius percent of each axis around centre percent of it."""
        far = [(100 * x + 50 - c * n) ** 2 * 10_000 // n**2 for x, c, n in zip((i, j, k), centre, shape, strict=True)]
        return sum(far) <= (100 * radius) ** 2

    texture = (i * i + 3 * j * j + 5 * k * k + 7 * i * j) % 61
    values = (i * 7919 + j * 104729 + k * 1299709) % 17
    values += inside((50, 50, 50), 44) * (400 + texture) + (inside((50, 50, 50), 44) & ~inside((50, 50, 50), 38)) * 250
    values -= inside((40, 55, 50), 10) * 300
    values += inside((64, 44, 52), 7) * 500
    return Volume(values[None].astype(np.float32), np.diag([*spacing_mm, 1.0]), sequence)


def made(model: Decipher) -> dict[str, np.ndarray]:
    """volumes (4, dim) and texts (4, dim), float32."""
    prepared = [prepare(picture(*grid), model.config.prepare) for grid in GRIDS]
    return {"volumes": vectors_of(model, prepared), "texts": model.encode_texts(TEXTS).numpy()}


@pytest.fixture(scope="module")
def model() -> Decipher:
    return load()


def test_the_file_is_of_the_model_that_ships() -> None:
    assert str(np.load(GOLDEN)["hash"]) == passport()["hash"], "another model ships: python tests/test_golden.py"


@pytest.mark.parametrize("kind", ["volumes", "texts"])
def test_vectors_are_those_on_file(model: Decipher, kind: str) -> None:
    golden, found = np.load(GOLDEN)[kind], made(model)[kind]
    np.testing.assert_allclose(found, golden, rtol=0, atol=TOLERANCE)
    apart = np.abs(golden[:, None] - golden[None]).max(axis=-1)[np.triu_indices(len(golden), 1)]
    assert apart.min() > 100 * TOLERANCE, "each has its own"


def test_vectors_do_not_depend_on_the_size_of_the_batch(model: Decipher) -> None:
    """Real shapes: of the phantom, whose series differ in plane, spacing and content, and of the pictures above."""
    series = [one.volume for n in range(3) for one in make_patient(n, voxel_mm=3.0, max_voxels=64)]
    prepared = [prepare(v, model.config.prepare) for v in [*series, *(picture(*grid) for grid in GRIDS)]]
    assert len({tuple(one.content.flatten().tolist()) for one in prepared}) > 5
    alone = torch.cat([model.encode_prepared(collate([one])).volume for one in prepared]).numpy()
    for size in (2, 3, 5, 8, len(prepared)):
        parts = [prepared[start : start + size] for start in range(0, len(prepared), size)]
        together = torch.cat([model.encode_prepared(collate(part)).volume for part in parts]).numpy()
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6, err_msg=f"batches of {size}")
    np.testing.assert_array_equal(vectors_of(model, prepared[3:4]), vectors_of(model, prepared)[3:4], "as encode does")


def test_texts_do_not_depend_on_their_company(model: Decipher) -> None:
    alone = torch.cat([model.encode_texts([text]) for text in TEXTS]).numpy()
    np.testing.assert_allclose(model.encode_texts(TEXTS).numpy(), alone, rtol=0, atol=1e-6)


if __name__ == "__main__":
    np.savez(GOLDEN, hash=np.array(passport()["hash"]), **made(load()))
