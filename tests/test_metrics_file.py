"""Tests of jobs.metrics_file: what Prometheus' own parser reads out of it, at every moment."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from capt.errors import FailureKind, InputError, OutputError
from jobs.events import Advanced, Broken, Progressed, Standing
from jobs.metrics_file import MetricsFile
from jobs.options import RunOptions, Share
from jobs.plan import prepare
from tests.running import Started, carry_out, change

STANDING = Standing(
    total=10,
    done=4,
    failed={"empty": 1, 'od"d\\\n': 2},
    shards=5,
    shards_done=2,
    images_per_second=1.5,
    seconds_left=4.0,
    stage_seconds={"encoder": 1.5, "writing": 0.25},
)
Samples = Mapping[tuple[str, str], float]


def samples(path: Path, **labels: str) -> Samples:
    """Read a file with Prometheus' parser: values by name and by the label beside the given ones."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
        assert family.documentation.endswith(".")
        assert family.type in {"gauge", "counter"}
        for sample in family.samples:
            assert sample.labels.items() >= labels.items()
            (further,) = (sample.labels.keys() - labels.keys()) or {""}
            found[sample.name, sample.labels.get(further, "")] = sample.value
    return found


def test_progress(tmp_path: Path) -> None:
    """Each figure is there under its name, causes and stages are labels, and any text is escaped as Prometheus reads it."""
    path, output = tmp_path / "capt.prom", tmp_path / 'o"u\\t\n'
    metrics = MetricsFile(path, output=output)
    before = samples(path, output=str(output))
    assert set(before) == {("capt_run_complete", ""), ("capt_last_update_timestamp_seconds", "")}
    assert before["capt_run_complete", ""] == 0
    metrics.hear(Progressed(STANDING))
    now = samples(path, output=str(output))
    assert now.pop(("capt_last_update_timestamp_seconds", "")) == pytest.approx(time.time(), abs=600)  # type: ignore[attr-defined]  # a dict
    none = {("capt_images_failed", str(kind)): 0.0 for kind in FailureKind}
    assert now == none | {
        ("capt_images_total", ""): 10,
        ("capt_images_done", ""): 4,
        ("capt_images_failed", "empty"): 1,
        ("capt_images_failed", 'od"d\\\n'): 2,
        ("capt_shards_total", ""): 5,
        ("capt_shards_done", ""): 2,
        ("capt_images_per_second", ""): 1.5,
        ("capt_stage_seconds_total", "encoder"): 1.5,
        ("capt_stage_seconds_total", "writing"): 0.25,
        ("capt_run_complete", ""): 0,
    }


def test_a_small_step_writes_nothing(tmp_path: Path) -> None:
    """The file is not rewritten with each batch, but the last one counts when the run breaks."""
    path = tmp_path / "capt.prom"
    metrics = MetricsFile(path, output=tmp_path)
    metrics.hear(Advanced(STANDING))
    assert "capt_images_done" not in path.read_text()
    metrics.hear(Broken(sentence="An error.", exit_code=3))
    assert samples(path, output=str(tmp_path))["capt_images_done", ""] == 4
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_is_complete_at_the_end(options: RunOptions, tmp_path: Path) -> None:
    """After a run, and after one that had nothing left to do, everything is done and the run complete; shares are told apart."""
    output, path = tmp_path / "out", tmp_path / "capt.prom"
    plan_of = change(options, share=Share(0, 2))
    for _ in range(2):
        carry_out(prepare(plan_of), MetricsFile(path, output=output, share="0/2"))
        found = samples(path, output=str(output), share="0/2")
        names = ("capt_images_total", "capt_images_done", "capt_shards_total", "capt_shards_done", "capt_run_complete")
        assert [found[name, ""] for name in names] == [5, 5, 2, 2, 1]


def test_another_ending_is_refused(start: Started, photos: Path, tmp_path: Path) -> None:
    """The collector reads files that end in .prom only, so another is refused with 2, as is one that cannot be written."""
    ended = start(photos, "-o", tmp_path / "out", "--metrics", tmp_path / "capt.txt")
    assert ended.code == 2
    assert "--metrics is a file that ends in .prom" in ended.err
    with pytest.raises(InputError):
        MetricsFile(tmp_path / "capt", output=tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        MetricsFile(Path("/proc/nothing/capt.prom"), output=tmp_path)
    assert list(tmp_path.iterdir()) == []
