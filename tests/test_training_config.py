"""Presets, settings, and how a wrong one is told."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from models.errors import DecipherError
from training.config import PRESETS, TrainConfig, load_config, preset_names


def test_every_preset_loads_and_has_the_common_keys() -> None:
    assert {"decipher", "vision", "align", "mini"} <= set(preset_names())
    for name in preset_names():
        config = load_config(name)
        assert config.preset == name and config.about
        said = yaml.safe_load(config.to_yaml())
        assert {"seed", "steps", "batch_size", "log_every", "checkpoint_every"} <= said.keys()


def test_a_preset_holds_only_differences() -> None:
    default = TrainConfig()
    for path in PRESETS.glob("*.yaml"):
        found = yaml.safe_load(path.read_text())
        for part in (found, *found.pop("by_stage", {}).values()):
            for key, value in part.items():
                if key not in ("stages", "about"):
                    assert getattr(default, key) != value, f"{path.name}: {key} is the default"


def test_a_stage_keeps_its_preset_s_differences_in_a_longer_run() -> None:
    alone, whole = load_config("text").stage("text"), load_config("decipher").stage("text")
    assert whole.learning_rate == alone.learning_rate == 1e-4
    assert whole.freeze == alone.freeze
    assert load_config("decipher").stage("align").learning_rate == TrainConfig.learning_rate


def test_what_is_set_for_one_stage_comes_last() -> None:
    config = load_config(
        "decipher", ["steps=7", "vision.steps=9", "align.masked_patches=0.1,0.3", "box=96", "patch=8,8,4"]
    )
    assert [config.stage(name).steps for name in config.stages] == [9, 7, 7]
    assert config.stage("align").masked_patches == (0.1, 0.3)
    assert config.box == (96,) and config.patch == (8, 8, 4)
    again = load_config_from(config.to_yaml())
    assert [again.stage(name).steps for name in again.stages] == [9, 7, 7]


def test_settings_come_last_and_keep_their_type() -> None:
    config = load_config(
        "align", ["steps=12", "learning_rate=1e-4", "stages=vision,align", "redistributable_only=true"]
    )
    assert config.steps == 12 and config.learning_rate == 1e-4
    assert config.stages == ("vision", "align") and config.redistributable_only is True


def load_config_from(text: str) -> TrainConfig:
    """A config that was written by a run, as a preset of another."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "again.yaml"
        path.write_text(text)
        return load_config(str(path))


def test_a_file_is_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("steps: 7\n")
    config = load_config(str(path))
    assert (config.preset, config.steps, config.batch_size) == ("mine", 7, TrainConfig.batch_size)


@pytest.mark.parametrize(
    ("preset", "settings", "told"),
    [
        ("align", ["stepz=3"], "stepz"),
        ("align", ["steps=many"], "steps takes a int"),
        ("align", ["steps=2.5"], "steps takes a int"),
        ("align", ["steps"], "no value"),
        ("align", ["masked_patches=low,high"], "masked_patches takes a float"),
        ("align", ["visoin.steps=3"], "No stage 'visoin'"),
        ("align", ["align.stepz=3"], "stepz"),
        ("align", ["stages=vision,word"], "No stage 'word'"),
        ("no-such", [], "No preset"),
    ],
)
def test_wrong_settings_are_told(preset: str, settings: list[str], told: str) -> None:
    with pytest.raises(DecipherError) as error:
        load_config(preset, settings)
    assert told in error.value.message


def test_the_nearest_key_is_named() -> None:
    with pytest.raises(DecipherError) as error:
        load_config("align", ["stepz=3"])
    assert error.value.hint == "Did you mean steps?"
