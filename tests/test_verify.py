"""What is wrong with an index is found, whichever file it is in, and told; what is right is not."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_store import PASSPORT, records_of, unit

from index.archive import Archive
from index.ledger import rejects_frame, row
from index.segment import digest
from index.store import Index
from index.verify import verify
from models.errors import DecipherError

FILES = ("series.parquet", "vectors.npy", "captions.npy", "caption_of.npy")


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator) -> Index:
    """Two segments of one archive, one row removed, a ledger and a picture of each series."""
    made = Index.create(tmp_path / "index", PASSPORT, [Archive("archive", tmp_path)])
    made.append(records_of(list("abcd"), archive=["archive"] * 4), unit(rng, 4), unit(rng, 4))
    made.append(records_of(list("ef"), archive=["archive"] * 2), unit(rng, 2), unit(rng, 2))
    made.remove(["b"])
    made.write_rejects(rejects_frame([row("x.txt", "not_an_image")]).with_columns(archive=pl.lit("archive")))
    (made.folder / "thumbnails").mkdir()
    for one in "acdef":
        (made.folder / "thumbnails" / f"{one}.png").write_bytes(b"picture")
    return made


def flipped(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def told(folder: Path) -> list[str]:
    """What opening or verifying an index says is wrong."""
    try:
        return verify(Index.open(folder))
    except DecipherError as error:
        return [error.message]


def test_a_whole_index_has_nothing_wrong(index: Index) -> None:
    steps: list[tuple[int, int]] = []
    assert verify(Index.open(index.folder), lambda done, of: steps.append((done, of))) == []
    assert steps == [(1, 2), (2, 2)]
    assert verify(Index.create(index.folder.with_name("empty"), PASSPORT)) == []


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_of_a_segment_is_found(index: Index, name: str) -> None:
    path = index.folder / "segments" / "000001" / name
    whole = path.read_bytes()
    places = random.Random(name).sample(range(len(whole)), 40) if len(whole) > 40 else range(len(whole))
    for at in (0, len(whole) - 1, *places):
        flipped(path, at, bit=at % 8)
        (sentence, *_) = told(index.folder)
        assert "000001" in sentence
        path.write_bytes(whole)
    assert told(index.folder) == []


@pytest.mark.parametrize("name", ["manifest.json", "card.json", "key", "rejects.parquet", "lock"])
def test_no_flipped_bit_of_the_other_files_gives_more_than_a_sentence(index: Index, name: str) -> None:
    path = index.folder / name
    whole = path.read_bytes()
    before = index.records
    for at in random.Random(name).sample(range(len(whole)), min(120, len(whole))):
        flipped(path, at, bit=at % 8)
        sentences = told(index.folder)
        if name == "manifest.json":
            assert sentences, f"byte {at} of the manifest"
        if not sentences:
            assert Index.open(index.folder).records.equals(before)
        path.write_bytes(whole)
    assert told(index.folder) == []


def test_damage_in_one_segment_does_not_hide_that_in_another(index: Index) -> None:
    for number, name in ((1, "series.parquet"), (1, "vectors.npy"), (2, "captions.npy")):
        flipped(index.folder / "segments" / f"{number:06d}" / name, -1)
    found = verify(index)
    assert found == [
        "segments/000001/series.parquet differs from its checksum.",
        "segments/000001/vectors.npy differs from its checksum.",
        "segments/000002/captions.npy differs from its checksum.",
    ]


def test_a_file_that_cannot_be_read_is_told(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    from index import segment as module

    def broken(path: Path) -> str:
        if path.name == "vectors.npy":
            raise OSError(5, "Input/output error")
        return digest(path)

    monkeypatch.setattr(module, "digest", broken)
    assert verify(index)[0] == "segments/000001/vectors.npy cannot be read: Input/output error."


def test_a_key_that_is_gone_short_or_open_to_others_is_told(index: Index) -> None:
    path = index.folder / "key"
    whole = path.read_bytes()
    path.chmod(0o640)
    assert [one[:24] for one in verify(index)] == ["key can be read by other"]
    path.chmod(0o600)
    path.write_bytes(whole[:-1])
    assert [one[:14] for one in verify(index)] == ["key is missing"]
    path.unlink()
    assert [one[:14] for one in verify(index)] == ["key is missing"]
    with pytest.raises(DecipherError, match="key cannot be read"):
        _ = Index.open(index.folder).key


def test_pictures_of_series_that_are_not_here_are_told_but_not_those_of_a_writer_at_work(index: Index) -> None:
    (index.folder / "thumbnails" / "b.png").write_bytes(b"picture")
    assert verify(Index.open(index.folder)) == [
        "thumbnails/ holds 1 pictures of series that are not here; decipher index compact removes them."
    ]
    with index.writing():
        assert verify(Index.open(index.folder)) == []
    with pytest.raises(KeyboardInterrupt), index.writing():
        raise KeyboardInterrupt
    assert verify(Index.open(index.folder)) == [], "the next writer clears it away"
    with index.writing():
        assert not (index.folder / "thumbnails" / "b.png").exists()
        assert len(list((index.folder / "thumbnails").iterdir())) == 5


def test_archives_that_the_card_does_not_name_are_told(index: Index, rng: np.random.Generator) -> None:
    index.append(records_of(["g"], archive=["another"]), unit(rng, 1))
    assert verify(index) == ["segments/000003 holds series of archives that card.json does not name: ['another']."]
    index.update_card(archives=[*index.card["archives"], Archive("another", Path("/x"), ("another",)).to_json()])
    assert verify(index) == []


def damaged_by_hand(index: Index) -> Iterator[tuple[str, np.ndarray]]:
    """Names of files of the first segment and contents that disagree with the rest, though their checksums hold."""
    vectors = np.load(index.folder / "segments" / "000001" / "vectors.npy")
    yield "vectors.npy", vectors * 2
    yield "vectors.npy", np.where(np.arange(4)[:, None] == 2, np.nan, vectors).astype(np.float32)
    yield "caption_of.npy", np.array([0, 1, 2, 7], dtype=np.int32)
    yield "caption_of.npy", np.array([0, 1, -1, 3], dtype=np.int32)


@pytest.mark.parametrize("which", range(4))
def test_what_was_stored_wrong_is_told_although_its_checksum_holds(index: Index, which: int) -> None:
    from index import manifest

    name, content = list(damaged_by_hand(index))[which]
    path = index.folder / "segments" / "000001" / name
    np.save(path, content)
    commit = manifest.read(index.folder)
    commit["segments"][0]["files"][name] = {"bytes": path.stat().st_size, "blake2b": digest(path)}
    manifest.write(index.folder, commit)
    (sentence,) = verify(Index.open(index.folder))
    assert sentence.startswith(f"segments/000001/{name} ")


def test_a_series_that_stands_twice_is_told(index: Index) -> None:
    from index import manifest

    commit = manifest.read(index.folder)
    commit["segments"][0]["removed"] = ""
    again = dict(commit["segments"][0])
    again["name"] = "000007"
    path = index.folder / "segments"
    (path / "000007").mkdir()
    for name in FILES:
        (path / "000007" / name).write_bytes((path / "000001" / name).read_bytes())
    manifest.write(index.folder, {**commit, "segments": [*commit["segments"], again]})
    assert "A series stands in the index twice." in verify(Index.open(index.folder))


def test_a_model_that_was_trained_on_since_is_told(index: Index, tiny_model: Path, tmp_path: Path) -> None:
    from models.folder import passport

    made = Index.create(tmp_path / "own", passport(str(tiny_model)))
    made.update_card(model=str(tiny_model))
    assert verify(made) == []
    made.update_card(model=str(tmp_path / "gone"))
    assert verify(made) == [], "an index may travel without its model"
    index.update_card(model=str(tiny_model))
    assert verify(index) == [f"The model {tiny_model} is no longer the one that made these vectors."]


def test_a_ledger_that_cannot_be_read_is_told_and_how_to_mend_it(index: Index) -> None:
    (index.folder / "rejects.parquet").write_bytes(b"PAR1 and no more")
    (sentence,) = verify(index)
    assert "rejects.parquet cannot be read" in sentence and "Remove it" in sentence


@pytest.mark.parametrize("damage", ["missing", "cut", "head", "stamp"])
def test_a_faiss_file_that_is_not_what_its_stamp_says_is_told(index: Index, damage: str) -> None:
    from index.nearest import refresh

    refresh(index)
    assert verify(index) == []
    path = index.folder / "nearest.faiss"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        flipped(path if damage == "head" else index.folder / "nearest.json", 12)
    (sentence,) = verify(index)
    assert sentence.startswith("nearest.faiss is missing or damaged")
    refresh(index)
    assert verify(index) == []


def test_card_says_how_many_series_there_are_also_after_a_kill_before_it_was_written(index: Index) -> None:
    card = json.loads((index.folder / "card.json").read_text())
    (index.folder / "card.json").write_text(json.dumps({**card, "series": 99}))
    assert Index.open(index.folder).card["series"] == 5
    index.update_card(note="x")
    assert json.loads((index.folder / "card.json").read_text())["series"] == 5
