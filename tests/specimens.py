"""A valid file of each kind that capt reads, how it may be damaged, and what reads it.

In: the name of a reader. Out: a Specimen. Apart from the tests, because these are many. What training writes, checkpoints among
it, stands in `tests/trained_specimens.py`.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from capt.captions import RUN_FILE, captions_schema, shard_name
from capt.errors import CaptError
from capt.images import IMAGENET
from capt.photographs import find_photographs
from capt.references import read_image_list, read_references
from evaluation.cache import Cache
from evaluation.gate import judge
from evaluation.gate_rules import Rules, read_rules
from evaluation.pairs import join, load_captions
from evaluation.runs import Run
from evaluation.scores import Evaluation
from evaluation.significance import Bootstrap
from evaluation.stored import is_scored, load, per_image_table
from evaluation.training_logs import read_training_logs
from jobs.loading import LoadingOptions, load_image
from jobs.merge import MergeOptions, merge
from jobs.output import Output
from jobs.plan import match
from jobs.reader import open_source
from jobs.source import SourceOptions
from reports.verdicts import make_verdict_table
from tests.conftest import EXAMPLE_CAPTIONS
from tests.damage import bent, odd_json_text, odd_parquet, table_bytes
from tests.test_captions import FINGERPRINT, rows
from tests.test_report import BASE, evaluation_of

IDS = ("a.jpg", "b.jpg", "c d.png", "e/f.png")
Damage = Callable[[bytes], st.SearchStrategy[bytes]]
LOADING = LoadingOptions(max_pixels=1000, preprocessing=IMAGENET, batch_size=2, workers=1, image_timeout=0.0)


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """Files of one kind.

    Attributes:
        files: All that the reader needs, by their names in a folder; each is valid.
        damage: Which of them is damaged, and the ways to do so.
        read: Reads the folder, to the last row.
    """

    files: Mapping[str, bytes]
    damage: Mapping[str, tuple[Damage, ...]]
    read: Callable[[Path], object]

    def damaged(self) -> st.SearchStrategy[tuple[str, bytes]]:
        """Give the name of a file and what has become of it."""
        ways = [(name, way) for name, ways in self.damage.items() for way in ways]
        return st.sampled_from(ways).flatmap(lambda each: st.tuples(st.just(each[0]), each[1](self.files[each[0]])))


def text(name: str, content: str, read: Callable[[Path], object], *further: Damage) -> Specimen:
    """Make a specimen of one file of text."""
    return Specimen(files={name: content.encode()}, damage={name: (bent, *further)}, read=lambda folder: read(folder / name))


def _source(name: str) -> Callable[[Path], object]:
    """Read a source as a run does: its ids, then each image, which must come to pixels or to a cause."""

    def read(folder: Path) -> object:
        source = open_source(SourceOptions(source=str(folder / name)), output=folder / "out")
        ids = list(source.image_ids())
        seen = []
        for items, table in source.batches(range(source.rows), 3):
            assert table.schema.names == source.travelling.names
            assert not table.num_columns or table.num_rows == len(items)
            seen += [item.image_id for item in items]
            for item in items:
                loaded = load_image(item, LOADING)
                assert (loaded.pixels is None) != (loaded.error is None)
        assert ids == seen
        return seen

    return read


def manifest() -> Specimen:
    """Photographs in a parquet manifest, with ids, references, a split and a column that travels along."""
    photo = io.BytesIO(png())
    table = pa.table(
        {
            "image": [{"bytes": photo.getvalue(), "path": name} for name in IDS[:3]] + [{"bytes": None, "path": IDS[3]}],
            "image_id": list(IDS),
            "caption": [[caption] for caption in EXAMPLE_CAPTIONS[:4]],
            "split": ["test"] * 4,
            "when": pa.array([0, 1, 2, 3], pa.timestamp("us")),
        }
    )
    return Specimen(
        files={"images.parquet": table_bytes(table)},
        damage={"images.parquet": (bent, odd_parquet, odd_parquet)},
        read=_source("images.parquet"),
    )


def manifest_of_paths() -> Specimen:
    """A parquet manifest that only names its photographs."""
    table = pa.table({"image_path": list(IDS), "key": [0, 1, 2, 3], "caption": ["a", "b", None, "d"]})
    return Specimen(
        files={"images.parquet": table_bytes(table), "a.jpg": png()},
        damage={"images.parquet": (bent, odd_parquet, odd_parquet)},
        read=_source("images.parquet"),
    )


def image_list() -> Specimen:
    """A list of photographs, one a line."""
    return text("list.txt", "".join(f"{name}\n" for name in IDS), _source_file)


def _source_file(path: Path) -> object:
    return _source(path.name)(path.parent)


def tar() -> Specimen:
    """A tar file of WebDataset, with text and JSON beside the images, in the formats that tar has."""
    files = {}
    for name, kind in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=kind) as file:
            long = "" if name == "ustar" else "y" * 120
            for member, content in (("x.png", png()), ("x.txt", b"a dog"), ("x.json", b"{}"), (f"é{long}/z.png", png())):
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
        files[f"{name}.tar"] = stream.getvalue()

    def read(folder: Path) -> object:
        return [_source(name)(folder) for name in files]

    return Specimen(files=files, damage=dict.fromkeys(files, (bent, _bent_header)), read=read)


def _bent_header(content: bytes) -> st.SearchStrategy[bytes]:
    """Change one field of a header, and make its checksum true again."""
    blocks = [start for start in range(0, len(content), 512) if content[start + 257 : start + 262] == b"ustar"]
    fields = {"name": (0, 100), "size": (124, 12), "mtime": (136, 12), "type": (156, 1), "link": (157, 100), "sparse": (386, 97)}
    values = st.binary(max_size=12) | st.sampled_from(
        (*b"01257LKSxg", b"77777777777", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-1")
    )

    def change(start: int, field: str, value: bytes | int) -> bytes:
        offset, size = fields[field]
        own = (bytes([value]) if isinstance(value, int) else value)[:size].ljust(size, b"\0")
        header = bytearray(content[start : start + 512])
        header[offset : offset + size] = own
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return content[:start] + bytes(header) + content[start + 512 :]

    return st.builds(change, st.sampled_from(blocks), st.sampled_from(sorted(fields)), values)


def png() -> bytes:
    """Make a photograph of six pixels."""
    from PIL import Image  # noqa: PLC0415 - only here

    stream = io.BytesIO()
    Image.new("RGB", (3, 2), (200, 10, 10)).save(stream, "PNG")
    return stream.getvalue()


REFERENCE_TEXTS = {
    "token lines": "".join(f"{name}#{n}\ta {name}  dog , {n} .\n" for name in IDS for n in range(2)),
    "kaggle": "image_name| comment_number| comment\n" + "".join(f"{name}| 0| a dog\n{name}| 1   a man\n" for name in IDS),
    "csv": "image,caption,split\n" + "".join(f'{name},"a ""dog"", runs\non",test\n' for name in IDS),
    "tsv": "image\tcaption\n" + "".join(f"{name}\ta dog\n" for name in IDS),
    "json lines": "".join(json.dumps({"image_id": name, "captions": ["a dog"], "split": "val"}) + "\n" for name in IDS),
    "coco": json.dumps(
        {
            "images": [{"id": number, "file_name": name} for number, name in enumerate(IDS)],
            "annotations": [{"image_id": number, "caption": "a dog"} for number in range(4)],
        }
    ),
    "karpathy": json.dumps(
        {
            "images": [
                {"filename": name, "split": "train", "cocoid": number, "sentences": [{"raw": "a dog"}, {"raw": "two dogs"}]}
                for number, name in enumerate(IDS)
            ]
        }
    ),
}


def _read_references(path: Path) -> None:
    """Read references as every program does, down to their fingerprint and to what Java and parquet are given."""
    for read in (read_references, load_captions, read_image_list):
        with _mendable():
            found = read(path)
            if read is read_references:
                assert found.sha256  # type: ignore[union-attr]  # References
                found.resolve(IDS)  # type: ignore[union-attr]  # References
                "\n".join(found.texts()).encode()  # type: ignore[union-attr]  # References
                pa.array(list(found.captions), pa.string())  # type: ignore[union-attr]  # References
    references = read_references(path)
    for split in {*references.splits.values(), *references.uncaptioned}:
        with _mendable():
            references.subset(split)


class _mendable(suppress):  # noqa: N801 - a context manager, used as one
    """Let an error pass that a user is told, after it was looked at."""

    def __init__(self) -> None:
        super().__init__(CaptError)


def references(name: str) -> Callable[[], Specimen]:
    """References in one format."""
    further = (odd_json_text,) * 2 if REFERENCE_TEXTS[name][:1] == "{" else ()
    return lambda: text("references", REFERENCE_TEXTS[name], _read_references, *further)


def parquet_references() -> Specimen:
    """References in parquet, as Hugging Face has them."""
    table = pa.table({"image_id": list(IDS), "caption": [["a dog", "two dogs"]] * 4, "split": ["val"] * 4})
    content = {"references.parquet": table_bytes(table)}
    return Specimen(
        files=content,
        damage={"references.parquet": (bent, odd_parquet, odd_parquet)},
        read=lambda folder: _read_references(folder / "references.parquet"),
    )


def reference_folder() -> Specimen:
    """A distribution: captions, split lists, Karpathy's JSON."""
    files = {
        "results.token": REFERENCE_TEXTS["token lines"].encode(),
        "Flickr_8k.testImages.txt": b"a.jpg\n",
        "dataset.json": REFERENCE_TEXTS["karpathy"].replace("train", "test").encode(),
    }
    return Specimen(files=files, damage=dict.fromkeys(files, (bent,)), read=read_references)


def _run_files(*, merged: bool) -> dict[str, bytes]:
    """Give a run of two shards, complete, or as machines that share it leave it."""
    schema = captions_schema(FINGERPRINT)
    tables = [rows("a", "b"), rows("c", "d")]
    failed = pa.table({"status": ["ok", "failed"], "error": pa.array([None, "corrupt: Bad."], pa.string())})
    for name in failed.column_names:
        tables[1] = tables[1].set_column(schema.get_field_index(name), schema.field(name), failed.column(name))
    files = {f"out/{shard_name(number)}": _shard(table.cast(schema)) for number, table in enumerate(tables)}
    report = {
        "source": "photos",
        "rows": 4,
        "ok": 3,
        "failed": {"corrupt": 1},
        "shards": 2,
        "captioned_in_last_session": 4,
        "seconds": 2.5,
        "stage_seconds": {"encoder": 1.5},
        "not_in_source": 0,
    }
    session = {**report, "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00", "share": "0/2"}
    if merged:
        return {**files, f"out/{RUN_FILE}": json.dumps({**report, "fingerprint": FINGERPRINT.to_dict()}).encode()}
    return {
        **files,
        "out/.agreement.json": FINGERPRINT.to_json().encode(),
        "out/.session-1.json": json.dumps(session).encode(),
        "out/.session-2.json": json.dumps({**session, "share": "1/2"}).encode(),
    }


def _shard(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _read_run(folder: Path) -> None:
    """Look at an output as a run that goes on, merges or extends does."""
    output = Output(folder / "out")
    existing = output.look(overwrite=False)
    match(replace(FINGERPRINT, precision="auto", device="auto"), existing, output)
    for number in existing.shards:
        output.failed_rows(number)
        output.image_ids(number)
        output.travelling(number)
    output.count_failures(existing.shards)
    merge(MergeOptions(output=folder / "out", into=folder / "one.parquet", overwrite=True))


def run_folder(*, merged: bool) -> Callable[[], Specimen]:
    """What a run left, of which any file may be damaged."""

    def build() -> Specimen:
        files = _run_files(merged=merged)
        ways = {name: (bent, odd_parquet if name.endswith(".parquet") else odd_json_text) for name in files}
        return Specimen(files=files, damage=ways, read=_read_run)

    return build


def _read_captions(folder: Path) -> None:
    """Read a captions table as the judge and a report do."""
    captions = load_captions(folder / "out")
    known = read_references(folder / "references")
    with _mendable():
        join(captions, known, partial=True)
    evaluation = replace(evaluation_of(BASE.tolist(), ["x"] * len(BASE)), image_ids=["a", "b"], captions=["a a", "a b"])
    run = Run(name="run", evaluation=evaluation, captions=folder / "out")
    _ = run.speed, run.failures, run.has_attention
    run.attention(["a", "b"])


def captions() -> Specimen:
    """A captions table as a run left it."""
    files = {**_run_files(merged=True), "references": "".join(f"{name}#0\ta {name}\n" for name in "abcd").encode()}
    ways = {name: (bent, odd_parquet if name.endswith(".parquet") else odd_json_text) for name in files if name != "references"}
    return Specimen(files=files, damage=ways, read=_read_captions)


def _evaluation() -> Evaluation:
    """Make scores whose every table is there."""
    made = evaluation_of(BASE.tolist(), ["a dog"] * len(BASE))
    scores = {name: made.scores[name] for name in ("CIDEr", "perplexity")}
    nats = np.stack([np.full(len(BASE), 30.0), np.full(len(BASE), 11.0)], axis=1)
    per_image = {"CIDEr": made.per_image["CIDEr"]}
    return replace(made, scores=scores, per_image=per_image, statistics={**made.statistics, "perplexity": nats})


def _read_scores(folder: Path) -> None:
    """Read scores as everything does that compares."""
    path = folder / "scores" / "per_image.parquet"
    is_scored(path)
    found = load(path)
    own = _evaluation()
    for pair in ((own, found), (found, own), (found, found)):
        make_verdict_table(judge(*pair, Rules(bootstrap=Bootstrap(resamples=100))))


def scores() -> Specimen:
    """Stored scores, which are a baseline too."""
    stream = io.BytesIO()
    pq.write_table(per_image_table(_evaluation()), stream)
    name = "scores/per_image.parquet"
    return Specimen(files={name: stream.getvalue()}, damage={name: (bent, odd_parquet, odd_parquet)}, read=_read_scores)


def cache() -> Specimen:
    """What Java found, kept by content; a damaged file counts as none, so only a file of another shape could do harm."""
    cache, content = Cache(folder=Path("cache")), ["a"]
    name = str(cache._path("kind", content))
    kept = json.dumps({"scores": {"METEOR": 0.5}, "per_image": {"METEOR": [0.5]}, "statistics": [[1.0]]}).encode()

    def read(folder: Path) -> object:
        return Cache(folder=folder / "cache").get("kind", content)

    def packed(content: bytes) -> st.SearchStrategy[bytes]:
        return (bent(gzip.decompress(content)) | odd_json_text(gzip.decompress(content))).map(gzip.compress)

    return Specimen(files={name: gzip.compress(kept, mtime=0)}, damage={name: (bent, packed)}, read=read)


RULES = """
resamples = 200
seed = 1
confidence = 0.9
[CIDEr]
absolute = 1.5
relative = 0.1
floor = 10
severity = "warn"
[perplexity]
ceiling = 20.0
"""


def rules() -> Specimen:
    """The gate's rules as a file of their own."""
    return text("rules.toml", RULES, read_rules, odd_toml)


def project_rules() -> Specimen:
    """The gate's rules in a pyproject.toml."""
    own = RULES.replace("\nresamples", "\n[tool.capt.gate]\nresamples").replace("[CIDEr]", "[tool.capt.gate.CIDEr]")
    return text("pyproject.toml", own.replace("[perplexity]", "[tool.capt.gate.perplexity]"), read_rules, odd_toml)


ODD_TOML = (
    *("[]", "{}", "true", "-1", "nan", "inf", "1e400", "0x7fffffffffffffff", "9" * 400, '""', '"fail"', "'''\n'''", "1979-05-27"),
    *('"\\u001b[31m"', "[[1], 2]", "{a = {b = 1}}", "[" * 2000, "{a=" * 2000, "00:00:00", '"\\U00110000"', "1_0", "0.5"),
)


def odd_toml(content: bytes) -> st.SearchStrategy[bytes]:
    """Give values of other types, and keys and tables of other names, by lines."""
    lines = content.decode().splitlines()
    numbers = [number for number, line in enumerate(lines) if line]

    def change(number: int, value: str, *, is_key: bool) -> bytes:
        key, equals, old = lines[number].partition(" = ")
        line = f"[{value}]" if not equals else f"{value} = {old}" if is_key else f"{key} = {value}"
        return "\n".join([*lines[:number], line, *lines[number + 1 :]]).encode()

    return st.builds(change, st.sampled_from(numbers), st.sampled_from(ODD_TOML), is_key=st.booleans())


def training_log() -> Specimen:
    """A training's log."""
    line = {
        "epoch": 1,
        "train_loss": 3.5,
        "perplexity": 20.5,
        "bleu_4": 0.1,
        "cider": 0.3,
        "learning_rate": 0.001,
        "seconds": 4.0,
    }
    content = "".join(json.dumps({**line, "epoch": number}) + "\n" for number in (1, 2))
    return text("log.jsonl", content, lambda path: read_training_logs([path]), odd_json_text)


def photographs() -> Specimen:
    """Photographs that the judge shows, in parquet."""
    table = pa.table({"image_id": list(IDS), "image": [{"bytes": png(), "path": name} for name in IDS]})
    return Specimen(
        files={"images.parquet": table_bytes(table)},
        damage={"images.parquet": (bent, odd_parquet, odd_parquet)},
        read=lambda folder: find_photographs(folder / "images.parquet", [*IDS, "0", "", "None"]),
    )


SPECIMENS: Mapping[str, Callable[[], Specimen]] = {
    "manifest": manifest,
    "manifest of paths": manifest_of_paths,
    "image list": image_list,
    "tar": tar,
    **{f"references, {name}": references(name) for name in REFERENCE_TEXTS},
    "references, parquet": parquet_references,
    "references, folder": reference_folder,
    "complete run": run_folder(merged=True),
    "shared run": run_folder(merged=False),
    "captions": captions,
    "scores": scores,
    "cache": cache,
    "gate rules": rules,
    "project's gate rules": project_rules,
    "training log": training_log,
    "photographs": photographs,
}
