"""Apply a detector to the studies of an archive, or a saved probe to an index, an archive or a volume.

A probe, as `decipher probe -o` saved it, gives calibrated probabilities, or a number with a 95 % interval.

A detector is the model folder that `decipher train medmap` ends with: it fuses the series of a study and gives the
probability of each finding. Where reports or labels say what is there, the figures follow, with 95 % intervals; studies that
the detector was trained on flatter it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decipher_cli.choices import AsJson, Quiet

NAMES = {"auroc": "AUROC", "auprc": "AUPRC", "accuracy": "accuracy"}
if TYPE_CHECKING:
    from training.detection import Detected, Study
    from training.study_labels import StudyFindings

EXAMPLES = (
    "decipher predict runs/medmap/model ./archive",
    "decipher predict runs/medmap/model ./archive --reports reports.csv --json",
    "decipher predict age-probe --save age_guess && decipher search --where 'age_guess > 60'",
    "decipher predict age-probe ./archive/volume.nii.gz --json",
)


def predict(
    fitted: Annotated[Path, typer.Argument(metavar="DETECTOR|PROBE", help="Model folder with a detector, or a probe.")],
    place: Annotated[
        Path | None, typer.Argument(metavar="[INDEX|ARCHIVE]", help="What to predict. Default: decipher-index.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels to join.")] = None,
    reports: Annotated[Path | None, typer.Option(help="Table of reports to join.")] = None,
    findings: Annotated[
        str | None, typer.Option(help="Label column that holds what is there. Default: what the detector learnt from.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Encoder of an archive's series. Default: the probe's own.")
    ] = None,
    save: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Keep a probe's predictions in the index, for --where.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    from decipher_cli.places import index_folder
    from decipher_cli.predicted import predict_probe
    from models.errors import DecipherError

    target = place or index_folder(None)
    if (fitted / "probe.json").is_file():
        predict_probe(fitted, target, model, save, device, as_json)
    elif (fitted / "detector").is_dir():
        if save:
            raise DecipherError(
                "Findings of a detector are not kept as a column.", "--json > findings.jsonl keeps them."
            )
        _predict_studies(fitted, target, labels, reports, findings, device, as_json)
    else:
        raise DecipherError(
            f"{fitted} holds neither a detector nor a probe.",
            "Train one: decipher train medmap   or fit one: decipher probe --task COLUMN -o FOLDER",
        )


def _predict_studies(
    fitted: Path, place: Path, labels: Path | None, reports: Path | None, column: str | None, device: str, as_json: bool
) -> None:
    from decipher_cli.output import progress, put_json, say
    from index.contents import contents_of
    from index.embed import device_for
    from models.decipher import load
    from models.errors import DecipherError
    from training.detection import detect, studies_in
    from training.study_labels import study_findings

    with progress() as bars:
        contents = contents_of(place, labels, reports, lambda done, of: bars("scan", done, of))
        for note in contents.notes:
            say(note)
        model = load(str(fitted), heads=True).to(device_for(device))
        assert model.detector is not None
        targets, learnt = model.detector.config.targets, model.detector.config.column
        asked = learnt if column is None and learnt in contents.records.columns else column
        told = study_findings(contents.records, asked or "")
        studies = studies_in(contents.records)
        _tell_series(studies)
        detected = []
        for one in detect(model, contents, studies, lambda done, of: bars("detect", done, of)):
            detected.append(one)
            for line in one.unread:
                say(f"not read: {line}")
            if as_json:
                put_json(_row(one, targets))
    if all(one.probabilities is None for one in detected):
        raise DecipherError(f"No study of {place} could be read.", f"See why: decipher scan {place} --check")
    figures = _figures(targets, detected, told)
    if as_json and figures:
        put_json({"figures": figures})
    if not as_json:
        _show_studies(targets, detected)
        _show_figures(figures)
    say("Not a medical device: findings of a trained model, not a diagnosis.")


def _tell_series(studies: "list[Study]") -> None:
    from decipher_cli.output import say
    from models.config import family_of

    doubled = sum(study.left_out > 0 for study in studies)
    if doubled:
        say(
            f"{doubled} of {len(studies)} studies have several series of one sequence: the one with most voxels counts."
        )
    unknown = sum(all(family_of(row["sequence"]) < 0 for row in study.series) for study in studies)
    if unknown:
        say(
            f"{unknown} of {len(studies)} studies have no series of known sequence: the path for unknown ones is taken. "
            "Say which it is in a column `sequence` of labels.csv."
        )


def _row(one: "Detected", targets: Any) -> dict[str, Any]:
    found = one.probabilities
    said = {} if found is None else {_name(t): round(float(p), 6) for t, p in zip(targets, found, strict=True)}
    series = [{key: row[key] for key in ("series_id", "path", "sequence")} for row in one.study.series]
    return {"study_id": one.study.study_id, "series": series, "findings": said}


def _name(target: Any) -> str:
    return f"{target.organ}: {target.name}" if target.organ else str(target.name)


def _figures(targets: Any, detected: "list[Detected]", told: "dict[str, StudyFindings]") -> list[dict[str, Any]]:
    """Figures of the studies whose reports or labels say what is there."""
    import numpy as np

    from training.detection import detection_figures
    from training.study_labels import label_matrix

    judged = [one for one in detected if one.probabilities is not None and one.study.study_id in told]
    if not judged:
        return []
    truth, known = label_matrix([told[one.study.study_id] for one in judged], targets)
    outputs = np.stack([one.probabilities for one in judged if one.probabilities is not None])
    who = np.array([one.study.subject for one in judged])
    return detection_figures(targets, outputs, truth, known, who)


def _show_studies(targets: Any, detected: "list[Detected]") -> None:
    """For each finding, in how many studies it is likely, and in which it is surest."""
    import numpy as np

    from decipher_cli.output import number, paper, table

    read = [one for one in detected if one.probabilities is not None]
    shown = table("finding", "above 0.5", "mean", "surest", "study", right=("above 0.5", "mean", "surest"))
    for place, target in enumerate(targets if read else []):
        each = np.array([one.probabilities[place] for one in read])  # type: ignore[index]
        surest = int(each.argmax())
        shown.add_row(_name(target), f"{(each > 0.5).sum()} of {len(read)}", number(each.mean()), number(each[surest]),
                      read[surest].study.series[0]["path"])  # fmt: skip
    paper().print(shown)


def _show_figures(figures: list[dict[str, Any]]) -> None:
    from decipher_cli.output import paper, say, table

    if not figures:
        say("No report or label says what is there, so there are no figures: --reports CSV, or --findings COLUMN.")
        return
    shown = table("finding", "with", *NAMES.values(), right=("with",))
    for row in figures:
        values = [_interval(row["metrics"][name]) for name in NAMES]
        shown.add_row(f"{row['organ']}: {row['finding']}", f"{row['positive']}/{row['n']}", *values)
    paper().print(shown)
    prior = figures[-1]["baselines"]
    say(
        f"95 % intervals resample patients. Without a detector: AUROC 0.5, AUPRC the share with the finding, accuracy that of "
        f"the larger class; over the last line {prior['auprc']:.2f} and {prior['accuracy']:.2f}."
    )


def _interval(metric: dict[str, float]) -> str:
    from decipher_cli.output import number

    return f"{number(metric['value'])} ({number(metric['low'])}-{number(metric['high'])})"
