"""What is asked for by name and is not there: a part of the body that no hit is of, by its tags or by its pixels."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from index.caption import TERMS, question
from index.prompts import probabilities
from index.search import Hit
from index.store import Index
from training.reports import regions_of

if TYPE_CHECKING:
    from models.decipher import Decipher

REGIONS = {region: term for region, term in TERMS["body_region"].items() if region != "whole_body"}
"""parts of the body that exclude each other, and their words"""


def absent(model: "Decipher", index: Index, query: str, hits: Sequence[Hit]) -> str:
    """A sentence where the query names parts of the body and no hit is of one of them; '' otherwise.

    A hit is of the part that its tags name, and of the one that its pixels show more likely than all others together.
    """
    asked = [region for region in regions_of(query) if region in REGIONS]
    if not asked or not hits or any(hit.record.get("body_region") in asked for hit in hits):
        return ""
    names = list(REGIONS)
    shares = _shown(model, index, [hit.record["series_id"] for hit in hits])
    if shares[:, [names.index(region) for region in asked]].sum(axis=1).max() > 0.5:
        return ""
    most, _ = Counter(names[number] for number in shares.argmax(axis=1)).most_common(1)[0]
    words = " or ".join(REGIONS[region] for region in asked)
    return f"No hit is of the {words}, by its tags or its pixels; most look like {REGIONS[most]}."


def _shown(model: "Decipher", index: Index, series: Sequence[str]) -> np.ndarray:
    """float (n, R): how likely each series is of each of REGIONS, by its pixels."""
    rows = index.row_of(series)
    vectors = index.gather(np.array([rows[one] for one in series], dtype=np.int64))
    prompts = model.encode_texts([question("body_region", region) for region in REGIONS]).numpy()
    return probabilities(model.certain_scale * vectors @ prompts.T, findings=False)
