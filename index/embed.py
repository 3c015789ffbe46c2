"""Series become vectors, and patch vectors where they are kept: read, prepared, encoded.

Decisions: reading and preparing run in threads ahead of the encoder. A batch always has the same size, the last one filled up
with copies: a processor may sum a smaller one in another order, and a series' vector must not depend on which others were
encoded with it, so that a run that was stopped ends in the same bytes.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from index.caption import caption, is_silent
from index.ledger import Rejection
from index.lock import writable
from index.part import PatchShape
from index.reading import read_volume
from index.thumbnails import save_thumbnail
from models.config import ModelConfig
from models.errors import DecipherError
from models.folder import model_folder

if TYPE_CHECKING:
    from models.decipher import Decipher
    from models.prepare import Prepared

T = TypeVar("T")
BATCH = 8
"""volumes a forward pass"""
TEXTS = 16
Ready = tuple[dict[str, Any], "Prepared | Rejection"]
Encoded = tuple[dict[str, Any], "tuple[np.ndarray, np.ndarray | None] | Rejection"]
"""a record with its vector (E,) and, where they are kept, its patch vectors (N, E), or why there are none"""


def prepared_ahead(
    root: Path, records: Iterable[Mapping[str, Any]], model: "Decipher", thumbnails: Path, workers: int
) -> Iterator[Ready]:
    """Records with their prepared volumes, or why there is none, in order, a few read ahead; saves thumbnails."""

    def ready(record: Mapping[str, Any]) -> Ready:
        from models.prepare import prepare

        try:
            volume = read_volume(root, record)
            prepared = prepare(volume, model.config.prepare)
        except Rejection as rejection:
            return dict(record), rejection
        except DecipherError as empty:
            return dict(record), Rejection("constant_image", empty.message)
        with writable(thumbnails):
            save_thumbnail(thumbnails, record["series_id"], volume)
        return dict(record), prepared

    todo = iter(records)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Ready]] = deque(pool.submit(ready, r) for r in islice(todo, workers + BATCH))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(ready, r) for r in islice(todo, 1))


def encoded_ahead(stream: Iterable[Ready], model: "Decipher", patches: bool) -> Iterator[Encoded]:
    """Records with their vectors, in order: each batch is encoded as soon as it is read, while the next one is."""
    for batch in blocks(stream, BATCH):
        good = [ready for _, ready in batch if not isinstance(ready, Rejection)]
        vectors, kept = features_of(model, good, patches) if good else (np.zeros((0, 0)), None)
        found = iter(zip(vectors, kept[0] if kept else repeat(None), strict=False))
        for record, ready in batch:
            yield record, ready if isinstance(ready, Rejection) else next(found)


def vectors_of(model: "Decipher", prepared: "list[Prepared]") -> np.ndarray:
    """float32 (n, E) of unit length; the same for a volume in any company."""
    return features_of(model, prepared, patches=False)[0]


def features_of(
    model: "Decipher", prepared: "list[Prepared]", patches: bool
) -> tuple[np.ndarray, list[np.ndarray] | None]:
    """As `vectors_of`, and blocks that make up the patch vectors, float16 (n, N, E), zeros where a token is padding."""
    from models.prepare import collate

    device = next(model.parameters()).device
    vectors, kept = [], []
    for batch in blocks(prepared, BATCH):
        found = model.encode_prepared(collate(filled(batch, BATCH)).to(device))
        vectors.append(found.volume[: len(batch)].cpu().numpy())
        if patches:
            known = found.patches.masked_fill(~found.valid[..., None], 0.0)
            kept.append(known[: len(batch)].half().cpu().numpy())
    return np.concatenate(vectors), kept if patches else None


def patch_shape(name: str) -> PatchShape:
    """(N, E) of what a model makes of a volume: tokens of its box, and how wide they are."""
    config = ModelConfig.from_json(json.loads((model_folder(name) / "config.json").read_text()))
    tokens = (edge // p for edge, p in zip(config.prepare.box, config.vision.patch, strict=True))
    return math.prod(tokens), config.dim


def captions_of(model: "Decipher", records: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """float32 (n, E): the text vectors of the records' captions, zeros where tags are silent.

    Equal captions are encoded once, with others of their length.
    """
    texts = ["" if is_silent(one) else caption(one) for one in records]
    by_length: dict[int, list[str]] = {}
    for text in filter(None, dict.fromkeys(texts)):
        by_length.setdefault(len(model.text.tokenizer.encode(text).ids), []).append(text)
    known = {"": np.zeros(model.config.dim, dtype=np.float32)}
    for same in by_length.values():
        for batch in blocks(same, TEXTS):
            found = model.encode_texts(filled(batch, TEXTS)).cpu().numpy()
            known |= dict(zip(batch, found, strict=False))
    return np.stack([known[text] for text in texts])


def filled(batch: list[T], size: int) -> list[T]:
    """The batch with copies of its last member, to make it `size` long."""
    return batch + batch[-1:] * (size - len(batch))


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    left = iter(items)
    while block := list(islice(left, size)):
        yield block


def device_for(name: str) -> str:
    """The device that `auto` means on this machine; other names as they are."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
