"""Captions meet references: each image once, in the order of the references; what does not fit is named and refused."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capt.errors import InputError
from capt.references import References
from evaluation.pairs import Captions, join, load_captions, load_references
from evaluation.perplexity import Likelihood

REFERENCES = References(
    captions={"a.jpg": ("one", "two"), "b.jpg": ("three",), "c.jpg": ("four",)}, aliases={"7": "c.jpg"}, source="data/refs"
)


def _captions(**captions: str | None) -> Captions:
    return Captions(image_ids=list(captions), captions=list(captions.values()), likelihoods=[None] * len(captions), source="run")


def test_pairs_come_in_the_order_of_the_references() -> None:
    """The order of the captions does not matter; names without ending, with folders and aliases find their image."""
    pairs = join(_captions(**{"7": "third", "b": "second", "photos/a.jpg": "first"}), REFERENCES)
    assert pairs.image_ids == ["a.jpg", "b.jpg", "c.jpg"]
    assert pairs.captions == ["first", "second", "third"]
    assert pairs.references[0] == ("one", "two")
    assert (pairs.failed, pairs.missing, pairs.extra, pairs.origin) == (0, 0, 0, "refs")
    assert pairs.references_sha256 == REFERENCES.sha256


def test_a_failed_image_is_an_empty_caption() -> None:
    """Failed rows are scored as empty, and counted."""
    pairs = join(_captions(a="x", b=None, c="z"), REFERENCES)
    assert pairs.captions == ["x", "", "z"]
    assert pairs.failed == 1


def test_failed_images_can_be_left_out_of_a_partial_score() -> None:
    """Left out on request they are missing images, so the score says that it is partial."""
    captions = _captions(a="x", b=None, c="z")
    pairs = join(captions, REFERENCES, partial=True, leave_out_failed=True)
    assert (pairs.image_ids, pairs.failed, pairs.missing) == (["a.jpg", "c.jpg"], 0, 1)
    assert pairs.references_sha256 != REFERENCES.sha256
    with pytest.raises(InputError, match=r"no caption for 1 image \(b.jpg\)"):
        join(captions, REFERENCES, leave_out_failed=True)


def test_missing_and_extra_images_are_named_and_refused() -> None:
    """Both sides are named with a count and the first few, unless --partial."""
    captions = _captions(a="x", q="y", r="z")
    expected = (
        r"run has no caption for 2 images \(b.jpg, c.jpg\) of data/refs"
        r" and data/refs has no references for 2 images \(q, r\) of run"
    )
    with pytest.raises(InputError, match=expected):
        join(captions, REFERENCES)
    pairs = join(captions, REFERENCES, partial=True)
    assert (pairs.image_ids, pairs.missing, pairs.extra) == (["a.jpg"], 2, 2)
    assert pairs.references_sha256 == REFERENCES.select(["a.jpg"]).sha256


@pytest.mark.parametrize("partial", [False, True])
def test_doubled_images_are_always_refused(*, partial: bool) -> None:
    """Two captions for one image are never chosen between, under one name or two."""
    for names in (["a.jpg", "a.jpg"], ["a.jpg", "a"], ["q", "q"]):
        doubled = Captions(image_ids=names, captions=["x", "y"], likelihoods=[None, None])
        with pytest.raises(InputError, match="more than once"):
            join(doubled, REFERENCES, partial=partial)


@pytest.mark.parametrize("partial", [False, True])
def test_nothing_in_common_is_refused(*, partial: bool) -> None:
    """Captions of other images score nothing, and the message shows a name of each side."""
    with pytest.raises(InputError, match=r"no image of run \(1 image \(q\)\) is in data/refs \(3 images \(a.jpg"):
        join(_captions(q="x"), REFERENCES, partial=partial)


def _rows(kind: str) -> str:
    rows = [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": ""}, {"image_id": 3, "caption": None}]
    if kind == "coco":
        return json.dumps(rows)
    if kind == "jsonl":
        return "\n".join(map(json.dumps, rows))
    return 'image,caption\n1,a dog\n2,""\n3,\n'


@pytest.mark.parametrize("kind", ["coco", "jsonl", "csv"])
def test_captions_of_other_programs(tmp_path: Path, kind: str) -> None:
    """COCO results, JSONL and CSV are read; an empty caption is a failed one."""
    (tmp_path / "captions").write_text(_rows(kind))
    captions = load_captions(tmp_path / "captions")
    assert captions.image_ids == ["1", "2", "3"]
    assert captions.captions == ["a dog", None, None]
    assert captions.fingerprint is None


def test_doubled_rows_of_other_programs_are_not_merged(tmp_path: Path) -> None:
    """A doubled id in COCO results is refused like any other."""
    (tmp_path / "x").write_text(json.dumps([{"image_id": "a.jpg", "caption": text} for text in ("one", "two")]))
    with pytest.raises(InputError, match=r"1 image \(a.jpg\) more than once"):
        join(load_captions(tmp_path / "x"), REFERENCES)


@pytest.mark.parametrize("place", ["captions-00000.parquet", "."])
def test_captions_of_a_run(tmp_path: Path, place: str) -> None:
    """A file or folder of capt-batch gives captions, failures and likelihoods; a failed row's caption does not count."""
    table = {
        "image_id": ["a", "b"],
        "caption": ["a dog", None],
        "status": ["ok", "failed"],
        "reference_nll": [[1.5, 2.5], None],
        "reference_tokens": pa.array([[3, 4], None], pa.list_(pa.int32())),
        "reference_unknown": pa.array([[0, 1], None], pa.list_(pa.int32())),
    }
    pq.write_table(pa.table(table), tmp_path / "captions-00000.parquet")
    captions = load_captions(tmp_path / place)
    assert captions.captions == ["a dog", None]
    assert captions.likelihoods == [Likelihood(nll=[1.5, 2.5], tokens=[3, 4], unknown=[0, 1]), None]


def test_captions_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, an empty table and a folder without captions are refused."""
    with pytest.raises(InputError, match="cannot be read"):
        load_captions(tmp_path / "nothing")
    (tmp_path / "x.csv").write_text("image,caption\n")
    with pytest.raises(InputError, match="holds no captions"):
        load_captions(tmp_path / "x.csv")
    with pytest.raises(InputError):
        load_captions(tmp_path)


def test_the_split_must_be_named_when_there_are_several(tmp_path: Path) -> None:
    """References with two splits are not scored as one."""
    rows = [{"image": name, "caption": "a dog", "split": split} for name, split in (("a", "val"), ("b", "test"), ("c", "test"))]
    path = tmp_path / "refs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="splits test, val: choose one with --split"):
        load_references(path)
    references = load_references(path, split="test")
    assert (set(references.captions), references.selection) == ({"b", "c"}, "test")
    (tmp_path / "mine.txt").write_text("a\nb\n")
    assert load_references(path, images=tmp_path / "mine.txt").selection == "mine.txt"
