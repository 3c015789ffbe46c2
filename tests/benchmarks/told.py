"""Figures of left-out series as Markdown."""

from typing import Any

from questions import CHOICES

Found = dict[str, Any]


def markdown(found: Found) -> str:
    """All tables of what `left_out.measured` found."""
    return "\n".join([_head(found), "", *_figures(found), "", *_queries(found), *_parts(found)])


def _head(found: Found) -> str:
    models = "; ".join(
        f"`{one['name']}` on {one['series']} series" + (f" ({', '.join(one['words'])})" if one["words"] else "")
        for one in found["models"]
    )
    seen = (
        "Every series is judged, those the model was trained on too: these figures say little of new data."
        if found["all"]
        else "No model is judged on a series that it was trained on."
    )
    unread = f" Not read: {', '.join(found['unread'])}." if found["unread"] else ""
    return (
        f"{models}; {found['judged']} series of {found['subjects']} subjects, pixels alone, 95 % intervals over subjects. "
        f"{seen}{unread}"
    )


def _figures(found: Found) -> list[str]:
    names = list(dict.fromkeys(rival for one in found["figures"].values() for rival in one["baselines"]))
    lines = [_row(["", "series", "model", "at best", "chance", *names]), _row(["---"] * (5 + len(names)))]
    for name, one in found["figures"].items():
        beside = [number(one["baselines"].get(rival, {}).get("value")) for rival in names]
        lines.append(
            _row([name, str(one["n"]), interval(one["model"]), number(one["best"]), number(one["chance"]), *beside])
        )
    return lines


def _queries(found: Found) -> list[str]:
    if not found["queries"]:
        return []
    lines = [_row(["query", "precision", "chance"]), _row(["---"] * 3)]
    for query, one in found["queries"].items():
        lines.append(_row([query, f"{number(one['precision'])} of {one['of']}", number(one["chance"])]))
    return [*lines, ""]


def _parts(found: Found) -> list[str]:
    lines = [
        _row(["right of all", *(name.removeprefix("zero-shot ") for name in CHOICES)]),
        _row(["---"] * (1 + len(CHOICES))),
    ]
    for part, values in found["parts"].items():
        for value, told in values.items():
            cells = [right(told[name]) if name in told else "" for name in CHOICES]
            if any(cells):
                lines.append(_row([f"{part.replace('_', ' ')} {value}", *cells]))
    return lines


def right(one: Found) -> str:
    """How many of how many, and the interval of the share where several subjects bear witness."""
    share = f" ({number(one['low'])} to {number(one['high'])})" if "low" in one else ""
    return f"{one['right']}/{one['n']}{share}"


def interval(one: Found) -> str:
    return f"{number(one['value'])} ({number(one['low'])} to {number(one['high'])})"


def number(value: float | None) -> str:
    """Two digits; a dash where there is none."""
    return "-" if value is None or value != value else f"{value:.2f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
