"""What a run leaves beside its model: the figures of its last check, and `decipher info MODEL` tells them."""

import json
import shutil
from pathlib import Path

from models.folder import DEFAULT, SHIPPED
from training.card import write_figures


def test_info_tells_the_figures_of_the_last_check(decipher, tiny_model: Path, tmp_path: Path) -> None:
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(tiny_model, model)
    (before,) = decipher("info", model, "--json").json_lines()
    assert "figures" not in before and before["kind"] == "model"
    rows = [
        {"stage": "align", "step": 1, "loss": 2.0},
        {"check": True, "step": 1, "hubness": 9.0},
        {"check": True, "step": 2, "hubness": 0.512345, "mean_cosine": 0.25, "effective_rank": 21.9, "volumes": 64},
    ]
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_figures(model, run)
    (told,) = decipher("info", model, "--json").json_lines()
    wanted = {"check": True, "step": 2, "hubness": 0.5123, "mean_cosine": 0.25, "effective_rank": 21.9, "volumes": 64}
    assert told.pop("figures") == wanted and told == before
    said = decipher("info", model).out
    assert "hubness 0.5123" in said and "effective_rank 21.9" in said


def test_a_shipped_model_is_told_by_its_name_with_its_card(decipher) -> None:
    folder = SHIPPED / DEFAULT
    said = decipher("info", DEFAULT)
    assert said.code == 0 and said.out.endswith((folder / "card.md").read_text())
    (told,) = decipher("info", DEFAULT, "--json").json_lines()
    assert told["card"] == str(folder / "card.md") and told == decipher("info", folder, "--json").json_lines()[0]
