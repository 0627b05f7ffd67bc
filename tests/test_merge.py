"""Several machines do one run: each its share, together into one folder, which `merge` makes complete."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capt.captions import RUN_FILE, Fingerprint, fingerprint_of, read_captions, shard_name, shard_paths
from capt.errors import InputError, OutputError
from jobs.cli import main
from jobs.lock import FolderLock
from jobs.merge import MergeOptions, merge
from jobs.options import OutputOptions, RunOptions, Share
from jobs.output import Output
from jobs.plan import describe, prepare
from jobs.run import Outcome
from jobs.together import agree, read_agreement
from tests.running import START, Job, Started, change, do, said, wait_for_shards
from tests.test_captions import FINGERPRINT


def shares(options: RunOptions, count: int) -> list[RunOptions]:
    """Give the options of each of so many machines."""
    return [change(options, share=Share(index, count)) for index in range(count)]


def test_shares_make_one_run(options: RunOptions, tmp_path: Path) -> None:
    """Whatever the order of the machines, the merged table is the one of a single machine; each does its own shards only."""
    assert do(change(options, path=tmp_path / "alone")) == Outcome(failed=0)
    first, second = shares(options, 2)
    assert do(second) == Outcome(failed=0)
    assert list(shard_paths(tmp_path / "out")) == [1]
    with pytest.raises(InputError, match="lacks"):
        read_captions(tmp_path / "out")
    assert do(first) == Outcome(failed=0)
    assert list(shard_paths(tmp_path / "out")) == [0, 1, 2]
    assert not (tmp_path / "out" / RUN_FILE).exists()
    summary = merge(MergeOptions(output=tmp_path / "out"))
    assert (summary.rows, summary.ok, summary.shards, summary.captioned) == (8, 8, 3, 8)
    assert read_captions(tmp_path / "out").equals(read_captions(tmp_path / "alone"))
    report = json.loads((tmp_path / "out" / RUN_FILE).read_text())
    alone = json.loads((tmp_path / "alone" / RUN_FILE).read_text())
    assert report.keys() == {*alone, "sessions"}
    assert report["fingerprint"] == alone["fingerprint"]
    assert {each["share"]: each["captioned_in_last_session"] for each in report["sessions"]} == {"0/2": 5, "1/2": 3}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {RUN_FILE, *(shard_name(number) for number in range(3))}


def test_a_finished_share_does_nothing(options: RunOptions, opened_images: list[str], tmp_path: Path) -> None:
    """Started again, a machine whose shards are there says so, and a complete run stays as it is."""
    share = change(options, share=Share(0, 2))
    do(share)
    opened_images.clear()
    assert "Share 0/2 of" in said(share)
    assert opened_images == []
    do(change(options, share=Share(1, 2)))
    merge(MergeOptions(output=tmp_path / "out"))
    before = (tmp_path / "out" / RUN_FILE).read_bytes()
    assert "Nothing is left to do" in said(share)
    assert merge(MergeOptions(output=tmp_path / "out")).rows == 8
    assert (tmp_path / "out" / RUN_FILE).read_bytes() == before


def test_more_machines_than_shards(options: RunOptions) -> None:
    """A machine for which there is no shard is done at once."""
    assert do(change(options, share=Share(7, 8))) == Outcome(failed=0)


def test_a_share_is_described(options: RunOptions, tmp_path: Path) -> None:
    """A dry run says how much this machine would do, and writes nothing."""
    told = " ".join(describe(prepare(change(options, share=Share(1, 2)))))
    assert "Share 1/2: 1 shards with 3 images." in told
    assert "0 of them finished, 1 to do with 3 images" in told
    assert not (tmp_path / "out").exists()


def test_one_file_may_be_written_as_well(options: RunOptions, tmp_path: Path) -> None:
    """It is what a single machine would have written there; an older file is replaced only on request, another's never."""
    do(change(options, path=tmp_path / "alone.parquet"))
    for share in shares(options, 3):
        do(share)
    into = tmp_path / "new" / "all.parquet"
    merge(MergeOptions(output=tmp_path / "out", into=into))
    assert read_captions(into).equals(read_captions(tmp_path / "alone.parquet"))
    with pytest.raises(OutputError, match="--overwrite"):
        merge(MergeOptions(output=tmp_path / "out", into=into))
    (tmp_path / "new" / "all.parquet.5f.tmp").write_text("half")  # as a merge leaves that is killed
    merge(MergeOptions(output=tmp_path / "out", into=into, overwrite=True))
    assert read_captions(into).num_rows == 8
    assert [path.name for path in into.parent.iterdir()] == ["all.parquet"]
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(read_captions(into).select(["image_id"]).replace_schema_metadata(None), foreign)
    with pytest.raises(OutputError, match="not written by capt-batch"):
        merge(MergeOptions(output=tmp_path / "out", into=foreign, overwrite=True))
    with pytest.raises(OutputError, match=r"ends in \.parquet"):
        merge(MergeOptions(output=tmp_path / "out", into=tmp_path / "folder"))


def test_what_is_missing_is_named(options: RunOptions, tmp_path: Path) -> None:
    """Missing, damaged and surplus shards, and folders without any, are refused with what to do; nothing is written."""
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="holds no shards"):
        merge(MergeOptions(output=out))
    with pytest.raises(OutputError, match="is one file"):
        merge(MergeOptions(output=tmp_path / "x.parquet"))
    first, second = shares(options, 2)
    do(first)
    with pytest.raises(OutputError, match=r"1 of the 3 shards .* \(1\)"):
        merge(MergeOptions(output=out))
    do(second)
    whole = (out / shard_name(2)).read_bytes()
    (out / shard_name(2)).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OutputError, match=r"1 of the 3 shards .* \(2\)"):
        merge(MergeOptions(output=out))
    (out / shard_name(2)).write_bytes(whole)
    (out / shard_name(3)).write_bytes(whole)
    with pytest.raises(OutputError, match=shard_name(3)):
        merge(MergeOptions(output=out))
    assert not (out / RUN_FILE).exists()


def test_machines_agree_before_they_work(options: RunOptions, tmp_path: Path) -> None:
    """The first to begin decides; one whose `auto` came to another precision is refused before it captions an image."""
    first, second = shares(options, 2)
    do(first)
    decided = read_agreement(tmp_path / "out")
    assert decided is not None
    assert decided.precision == "float32"
    (tmp_path / "out" / shard_name(0)).unlink()
    (tmp_path / "out" / shard_name(2)).unlink()
    with pytest.raises(OutputError, match=r"--precision was float32, is bfloat16\); give all machines the same"):
        do(change(second, precision="bfloat16"))
    do(change(second, precision="auto"))  # becomes what was decided
    shard = fingerprint_of(pq.read_schema(tmp_path / "out" / shard_name(1)))
    assert shard is not None
    assert shard.precision == "float32"


def test_the_first_agreement_stands(tmp_path: Path) -> None:
    """Two that decide at the same time get the same answer; what cannot be read is refused."""
    made = FINGERPRINT
    other = Fingerprint(**{**made.to_dict(), "precision": "bfloat16"})  # type: ignore[arg-type] # as to_dict gave them
    assert agree(tmp_path, made) == made
    assert agree(tmp_path, other) == made
    assert [path.name for path in tmp_path.iterdir()] == [".agreement.json"]
    (tmp_path / ".agreement.json").write_text("{")
    with pytest.raises(OutputError, match="remove it when no machine is writing"):
        agree(tmp_path, other)
    with pytest.raises(OutputError, match="cannot be written"):
        agree(tmp_path / "nowhere", made)


def test_machines_agree_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have none; other users can read what was decided; nothing is left beside it."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert agree(tmp_path, FINGERPRINT) == FINGERPRINT
    assert agree(tmp_path, FINGERPRINT) == FINGERPRINT
    assert [path.name for path in tmp_path.iterdir()] == [".agreement.json"]
    assert (tmp_path / ".agreement.json").stat().st_mode & 0o044


def test_a_share_that_cannot_clear_up_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-written file that is another user's is left; the other machines get in all the same."""
    (tmp_path / "out").mkdir()
    half = tmp_path / "out" / "captions-00001.parquet.abc.tmp"
    half.touch()
    os.utime(half, (0, 0))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        lock = FolderLock(tmp_path / "out")
        output = Output(tmp_path / "out")
        assert lock.take(shared=True, when_alone=lambda: output.clear_up(older_than=0.0))
    with output.prepared(overwrite=False, shared=True):
        pass
    lock.let_go()


def test_a_whole_run_goes_on_with_shares(options: RunOptions, tmp_path: Path) -> None:
    """One machine may finish what several began; nothing of their talk is left."""
    do(change(options, share=Share(0, 2)))
    assert do(options) == Outcome(failed=0)
    assert read_captions(tmp_path / "out").num_rows == 8
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_shares_keep_whole_runs_and_merging_out(options: RunOptions, tmp_path: Path) -> None:
    """While a machine writes its share, others may write theirs, but no run alone, and nobody makes the run complete."""
    first, second = shares(options, 2)
    do(first)
    do(second)
    with Output(tmp_path / "out").prepared(overwrite=False, shared=True):
        with Output(tmp_path / "out").prepared(overwrite=False, shared=True):
            pass
        with (
            pytest.raises(OutputError, match="Another capt-batch run is writing"),
            Output(tmp_path / "out").prepared(overwrite=False),
        ):
            pass
        with pytest.raises(OutputError, match="Another capt-batch run is writing"):
            merge(MergeOptions(output=tmp_path / "out"))
    merge(MergeOptions(output=tmp_path / "out"))


def test_halves_of_others_are_left_alone(options: RunOptions, tmp_path: Path) -> None:
    """What is half written may be another machine's: a share clears away only what is old, and only when alone; a run, all."""
    half, young = (tmp_path / "out" / f"{shard_name(1)}.{name}.tmp" for name in ("abc", "def"))
    output = Output(tmp_path / "out")
    with output.prepared(overwrite=False, shared=True):
        half.touch()
        young.touch()
        os.utime(half, (0, 0))
        do(change(options, share=Share(0, 2)))
        assert half.exists()
    do(change(options, share=Share(1, 2)))
    assert not half.exists()
    assert young.exists()  # where locks do not reach, another machine may still be writing it
    do(change(options, retry_failed=True))
    with Output(tmp_path / "out").prepared(overwrite=False):
        assert not young.exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("3", "I/N"), ("a/b", "I/N"), ("-1/2", "I/N"), ("2/2", "of 2 machines the last is 1/2"), ("0/0", "0/1 is all")],
)
def test_what_is_no_share(text: str, sentence: str) -> None:
    """Machines are counted from 0; anything else is one sentence."""
    with pytest.raises(InputError, match=sentence):
        Share.parse(text)
    assert str(Share.parse("0/8")) == "0/8"


def test_shares_go_into_a_folder_and_remove_nothing(tmp_path: Path) -> None:
    """One file cannot be shared, and no machine removes what the others wrote."""
    with pytest.raises(InputError, match="capt-batch merge FOLDER --into"):
        OutputOptions(path=tmp_path / "x.parquet", share=Share(0, 2))
    with pytest.raises(InputError, match="would remove what the other machines write"):
        OutputOptions(path=tmp_path / "x", share=Share(0, 2), overwrite=True)


def test_two_workers_on_the_same_shards_one_killed(job: Job, undisturbed: object, tmp_path: Path) -> None:
    """Three processes at once, two of them on the same shards and one of these killed: nothing is lost or doubled."""
    output = tmp_path / "out"
    commands = [[sys.executable, "-c", START, *job.arguments(output), "--shard", share] for share in ("0/2", "1/2", "1/2")]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    wait_for_shards(workers[2], output, 3)
    time.sleep(0.05)
    workers[2].kill()
    ended = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers[:2]] == [0, 0], ended
    assert workers[2].returncode in {-signal.SIGKILL, 0}
    done = subprocess.run([sys.executable, "-c", START, "merge", str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_captions(output).equals(undisturbed)
    assert not list(output.glob("*.tmp"))


def test_merge_as_a_command(
    start: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Failed images decide the exit code, as for a run; what is missing is one sentence and code 2."""
    source, output = tmp_path / "photos", tmp_path / "out"
    source.mkdir()
    (source / "a.jpg").write_text("no photograph")
    (source / "b.jpg").write_text("neither")
    for number in (0, 1):
        ended = start(source, "-o", output, "--shard-size", 1, "--shard", f"{number}/2")
        assert ended.code == 1
        assert f"When all shares are: capt-batch merge {output}" in ended.err
    for more, code in (((), 1), (("--allow-failures",), 0)):
        monkeypatch.setattr("sys.argv", ["capt-batch", "merge", str(output), *more])
        try:
            main()
        except SystemExit as left:
            assert left.code in {code, None}  # noqa: PT017
    assert "failed: " in capsys.readouterr().err
    assert start(source, "-o", tmp_path / "x.parquet", "--shard", "0/2").code == 2
