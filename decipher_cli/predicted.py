"""The predictions of a saved probe: for an index from its vectors, for an archive or a volume encoded on the way."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from index.store import Index
    from training.probe import Probe

AT_ONCE = 32
"""series read ahead of the encoder"""
LIKELY = 0.5
NONE = "none"


@dataclass(frozen=True)
class Predicted:
    """records (n rows), the unit (n,) of each, the output of that unit (n, K) or (n,), half of the interval around a number."""

    probe: "Probe"
    records: "pl.DataFrame"
    unit: "np.ndarray"
    outputs: "np.ndarray"
    half_width: float | None

    def rows(self) -> list[dict[str, Any]]:
        """One a series: where it is, the task, and what is said of it."""
        keys = ["series_id", "study_id", "patient_id", "path", "part"]
        where = self.records.select(keys).iter_rows(named=True)
        return [
            {**record, "task": self.probe.task, **said(self.probe, output, self.half_width)}
            for record, output in zip(where, self.outputs, strict=True)
        ]


def predict_probe(fitted: Path, place: Path, model: str | None, save: str | None, device: str, as_json: bool) -> None:
    """Errors: DecipherError for another encoder, and for --save where there is no index."""
    from decipher_cli.output import put_json, say
    from index.saving import check_name
    from index.store import Index, is_index
    from models.errors import DecipherError
    from training.saved_probe import check_passport, load_probe

    probe = load_probe(fitted)
    if save and not is_index(place):
        raise DecipherError(
            f"{place} is no index, so there is nowhere to save a column.",
            f"Encode it first: decipher encode {place} && decipher predict {fitted} --save {save}",
        )
    if is_index(place):
        index = Index.open(place)
        check_passport(probe, index.passport)
        if save:
            check_name(index, save)
        records, vectors = index.columns(["series_id", "study_id", "patient_id", "path", "part"]), index.vectors
    else:
        records, vectors = _encoded(probe, place, model, device)
    found = _predicted(probe, records, vectors)
    if as_json:
        for row in found.rows():
            put_json(row)
    else:
        _show(found)
    if save:
        _save(index, save, found, fitted)
        example = (
            f"{save} > {found.outputs.mean():.3g}" if not probe.classes else f"{save} = '{_label(found.rows()[0])}'"
        )
        say(f'{len(records)} series saved: decipher search --where "{example}"')
    say(f"{len(records)} series; the probe's own figures: {fitted / 'probe.json'}")


def _encoded(probe: "Probe", place: Path, model: str | None, device: str) -> "tuple[pl.DataFrame, np.ndarray]":
    """The series of an archive or of one volume, and their vectors by the probe's encoder."""
    import numpy as np

    from decipher_cli.output import progress, say
    from index.contents import contents_of
    from index.embed import device_for, vectors_of
    from models.decipher import load
    from models.errors import DecipherError
    from models.folder import passport
    from training.saved_probe import check_passport

    name = model or probe.report.get("model")
    check_passport(probe, passport(name))
    with progress() as bars:
        contents = contents_of(place, progress=lambda done, of: bars("scan", done, of))
        encoder = load(name).to(device_for(device))
        every = list(contents.records.iter_rows(named=True))
        blocks = [every[start : start + AT_ONCE] for start in range(0, len(every), AT_ONCE)]
        vectors: list[np.ndarray] = []
        kept: list[bool] = []
        for block in contents.prepared_all(blocks, encoder.config.prepare):
            kept += [not isinstance(one, str) for one in block]
            for why in (one for one in block if isinstance(one, str)):
                say(f"not read: {why}")
            if ready := [one for one in block if not isinstance(one, str)]:
                vectors.append(vectors_of(encoder, ready))
            bars("encode", len(kept), len(every))
    if not vectors:
        raise DecipherError(f"No series of {place} could be read.", f"See why: decipher scan {place} --check")
    return contents.records.filter(np.array(kept)), np.concatenate(vectors)


def _predicted(probe: "Probe", records: "pl.DataFrame", vectors: "np.ndarray") -> Predicted:
    """Each series has the prediction of its unit, as the probe was judged; without a known one it is its own."""
    import numpy as np

    from training.saved_probe import apply_probe, half_width_of
    from training.units import unit_names

    units = unit_names(records, probe.report.get("unit", "series"))
    names = [one or own for one, own in zip(units, records["series_id"], strict=True)]
    unit = np.unique(names, return_inverse=True)[1]
    return Predicted(probe, records, unit, apply_probe(probe, vectors, unit)[unit], half_width_of(probe))


def said(probe: "Probe", output: Any, half_width: float | None) -> dict[str, Any]:
    """A number with its interval; the likeliest class, or all likely labels, with the probability of each."""
    if not probe.classes:
        around = {} if half_width is None else {"low": round(float(output - half_width), 4),
                                                "high": round(float(output + half_width), 4)}  # fmt: skip
        return {"value": round(float(output), 4), **around}
    each = {name: round(float(p), 6) for name, p in zip(probe.classes, output, strict=True)}
    if probe.kind == "multilabel":
        return {"labels": [name for name, p in each.items() if p > LIKELY], "probabilities": each}
    best = probe.classes[int(output.argmax())]
    return {"label": best, "probability": each[best], "probabilities": each}


def _label(row: dict[str, Any]) -> str:
    return row["label"] if "label" in row else ", ".join(row["labels"]) or NONE


def _show(found: Predicted) -> None:
    """One line a unit, by its first series."""
    from decipher_cli.output import number, paper, table
    from training.units import firsts

    probe, rows = found.probe, found.rows()
    columns = ["probability"] if probe.classes else ["low", "high"] if found.half_width is not None else []
    shown = table("series", probe.task, *columns, right=tuple(columns if probe.classes else [probe.task, *columns]))
    for row in (rows[first] for first in sorted(firsts(found.unit))):
        if probe.classes:
            shown.add_row(row["path"], _label(row), number(row.get("probability", max(row["probabilities"].values()))))
        else:
            shown.add_row(row["path"], *(number(row[name], 1) for name in ("value", *columns)))
    paper().print(shown)


def _save(index: "Index", name: str, found: Predicted, fitted: Path) -> None:
    """--save: the predictions, and where they come from."""
    from datetime import UTC, datetime

    import numpy as np

    from index.saving import save, save_numbers

    keys = ("task", "kind", "classes", "arrays_hash", "unit", "pool")
    origin = {
        "by": "predict",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "encoder": {key: index.passport.get(key) for key in ("name", "hash")},
        "probe": {"folder": fitted.name, **{key: found.probe.report.get(key) for key in keys}},
        "series": len(found.records),
        "calibrated": bool(found.probe.report.get("calibrations")),
    }
    rows = np.arange(len(found.records))
    if not found.probe.classes:
        save_numbers(index, name, rows, found.outputs, found.half_width, origin)
        return
    save(index, name, rows, [_label(row) for row in found.rows()], found.outputs.max(axis=1).round(6), origin)
