"""Tests of jobs.event_log: one JSON object a line, nothing lost of what was there, and no caption lost for a log."""

import json
import os
import platform
import resource
from datetime import datetime, timedelta
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest

from capt.captions import read_captions
from capt.errors import OutputError
from jobs.event_log import EventLog
from jobs.events import Advanced, Failure, Interrupted, Progressed, Standing, Started, Warned
from jobs.options import RunOptions
from jobs.plan import prepare
from tests.running import Started as Start
from tests.running import call, carry_out, change

STANDING = Standing(
    total=10,
    done=4,
    failed={"empty": 1},
    shards=5,
    shards_done=2,
    images_per_second=1.23456,
    seconds_left=4.8601,
    stage_seconds={"encoder": 1.5},
)


def events(path: Path) -> list[dict[str, object]]:
    """Read a log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_tells_its_story(options: RunOptions, photos: Path, tmp_path: Path) -> None:
    """Start, network, failed image, shards and end follow one another, each with its time in UTC and the figures of run.json."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in sorted(photos.iterdir()):
        (folder / photo.name).write_bytes(photo.read_bytes())
    (folder / "cat.jpg").write_bytes(b"")
    log = tmp_path / "logs" / "log.jsonl"
    plan = prepare(change(options, source=str(folder)))
    carry_out(plan, EventLog(log))
    told = events(log)
    assert [event["event"] for event in told] == ["started", "network", "image_failed", *["shard"] * 3, "finished"]
    times = [datetime.fromisoformat(str(event["time"])) for event in told]
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert all(before <= after for before, after in pairwise(times))
    started, network, failed, *shards, finished = ({k: v for k, v in event.items() if k != "time"} for event in told)
    assert started == {
        "event": "started",
        "source": str(folder),
        "output": str(tmp_path / "out"),
        "images": 8,
        "shards": 3,
        "to_caption": 8,
        "share": None,
        "host": platform.node(),
        "pid": os.getpid(),
        "capt": version("capt"),
    }
    assert network.pop("seconds") > 0  # type: ignore[operator]  # a number
    assert network == {
        "event": "network",
        "checkpoint": plan.fingerprint.checkpoint_name,
        "sha256": plan.fingerprint.checkpoint_sha256,
        "device": "cpu",
        "precision": "float32",
        "runtime": network["runtime"],
    }
    assert failed == {"event": "image_failed", "image_id": "cat.jpg", "kind": "empty", "sentence": "The file has zero bytes."}
    assert [(shard["number"], shard["rows"], shard["failed"]) for shard in shards] == [
        (0, 3, {"empty": 1}),
        (1, 3, {}),
        (2, 2, {}),
    ]
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    figures = {name: value for name, value in report.items() if name not in {"source", "started", "finished", "fingerprint"}}
    assert finished == {"event": "finished", "output": str(tmp_path / "out"), **figures}


def test_started_again_it_goes_on_in_the_same_log(options: RunOptions, tmp_path: Path) -> None:
    """A complete run that is started again adds that nothing was left to do; older lines stay."""
    log = tmp_path / "log.jsonl"
    log.write_text('{"event": "older"}\n')
    for _ in range(2):
        carry_out(prepare(options), EventLog(log))
    told = events(log)
    assert told[0] == {"event": "older"}
    assert [event["event"] for event in told[-2:]] == ["started", "finished"]
    assert (told[-2]["to_caption"], told[-1]["rows"], told[-1]["captioned_in_last_session"]) == (0, 8, 0)


def test_fields_of_what_a_short_run_does_not_tell(tmp_path: Path) -> None:
    """Progress, warnings and interruptions have their fields, rounded; a share and odd file names are written readably."""
    log = EventLog(tmp_path / "log.jsonl")
    source = os.fsdecode(b"caf\xe9\n")
    log.hear(Started(source=source, output="out", images=1, shards=1, to_caption=1, share="0/8"))
    log.hear(Progressed(STANDING))
    log.hear(Warned("A „warning”."))
    log.hear(Interrupted(signal="SIGTERM", done=4, total=10))
    log.close()
    started, progress, warning, interrupted = (
        {k: v for k, v in each.items() if k != "time"} for each in events(tmp_path / "log.jsonl")
    )
    assert (started["source"], started["share"]) == ("caf\\xe9\n", "0/8")
    assert progress == {
        "event": "progress",
        "done": 4,
        "total": 10,
        "failed": {"empty": 1},
        "shards_done": 2,
        "shards": 5,
        "images_per_second": 1.23,
        "seconds_left": 4.9,
        "stage_seconds": {"encoder": 1.5},
    }
    assert warning == {"event": "warning", "sentence": "A „warning”."}
    assert interrupted == {"event": "interrupted", "signal": "SIGTERM", "done": 4, "total": 10}


def test_a_wrong_disk_does_not_fill_another(tmp_path: Path) -> None:
    """Of ever more failed images the log names a thousand, then says where the others are."""
    log = EventLog(tmp_path / "log.jsonl")
    batch = [Failure(image_id="a", kind="not_found", sentence="There is no file at this path.")] * 300
    for _ in range(10):
        log.hear(Advanced(STANDING, failures=batch))
    log.close()
    told = events(tmp_path / "log.jsonl")
    assert [event["event"] for event in told] == ["image_failed"] * 1000 + ["warning"]


def test_stdout_is_a_log_too(capfd: pytest.CaptureFixture[str]) -> None:
    """`-` writes to stdout, which stays open afterwards."""
    log = EventLog(Path("-"))
    log.hear(Warned("One."))
    log.close()
    os.write(1, b"still open\n")
    first, second = capfd.readouterr().out.splitlines()
    assert json.loads(first)["sentence"] == "One."
    assert second == "still open"


def test_a_log_that_cannot_be_written_is_refused_before_work(start: Start, photos: Path, tmp_path: Path) -> None:
    """The run ends with 2 and one sentence, and nothing was written."""
    ended = start(photos, "-o", tmp_path / "out", "--log-json", "/proc/nothing/log.jsonl")
    assert ended.code == 2
    assert "The log /proc/nothing/log.jsonl cannot be written" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_lines_and_no_captions(start: Start, photos: Path, tmp_path: Path) -> None:
    """A log on a full device is one warning; the run is complete and exits with 0."""
    ended = start(photos, "-o", tmp_path / "out", "--log-json", "/dev/full")
    assert ended.code == 0
    sentence = "The log /dev/full cannot be written (No space left on device): lines are missing. The run goes on."
    assert ended.err.count(sentence) == 1
    assert read_captions(tmp_path / "out").num_rows == 8


def test_a_cut_line_stays_alone(tmp_path: Path) -> None:
    """When a disk fills in the middle of a line and has room again, later lines are whole."""
    log = EventLog(tmp_path / "log.jsonl")
    log.hear(Warned("One."))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for _ in range(2):
            with pytest.raises(OutputError, match="File too large"):
                log.hear(Warned("Two."))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.hear(Warned("Three."))
    log.close()
    first, cut, third = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(first)["sentence"] == "One."
    assert cut.startswith('{"time": ')
    assert not cut.endswith("}")
    assert json.loads(third)["sentence"] == "Three."


def test_refusals_are_in_the_log(start: Start, tmp_path: Path) -> None:
    """What ends the command is told with its exit code, also when it ends before work."""
    assert start(tmp_path / "nothing", "-o", tmp_path / "out", "--log-json", tmp_path / "log.jsonl").code == 2
    (told,) = events(tmp_path / "log.jsonl")
    assert (told["event"], told["exit_code"]) == ("error", 2)
    assert "There is no" in str(told["sentence"])


def test_a_dry_run_writes_no_log(start: Start, photos: Path, tmp_path: Path) -> None:
    """A dry run writes nothing, neither a log nor metrics."""
    ended = start(photos, "-o", tmp_path / "out", "--dry-run", "--log-json", tmp_path / "l", "--metrics", tmp_path / "m.prom")
    assert ended.code == 0
    assert list(tmp_path.iterdir()) == []


def test_merge_tells_too(
    options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`merge --log-json` tells the figures of the whole run, or why there is none yet."""
    log = tmp_path / "log.jsonl"
    command = ["merge", tmp_path / "out", "--log-json", log]
    assert call(command, monkeypatch, capsys)[0] == 2
    carry_out(prepare(options))
    assert call(command, monkeypatch, capsys)[0] == 0
    error, finished = events(log)
    assert (error["event"], error["exit_code"]) == ("error", 2)
    assert (finished["event"], finished["rows"], finished["failed"]) == ("finished", 8, {})
