"""Tests of jobs.progress: what people see, on a terminal and in a log."""

import io
import threading
import time

import pytest
from rich.console import Console

from jobs.events import Advanced, Began, Finished, Progressed, Standing, Warned
from jobs.progress import Reporter, Stage, Stages, Summary, duration

SUMMARY = Summary(
    output="out",
    rows=50_000,
    failed={"truncated": 2, "not_found": 7},
    shards=50,
    captioned=1234,
    seconds=100.0,
    stages={"decoding images": 31.25, "encoder": 88.5},
)


def shown(*, terminal: bool, quiet: bool = False, steps: int = 3) -> str:
    """Give what a short run shows."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=80, quiet=quiet, color_system=None)
    reporter = Reporter(console)
    reporter.hear(Began(standing(0)))
    for step in range(1, steps + 1):
        reporter.hear(Advanced(standing(step)))
    reporter.hear(Warned("A sentence with [brackets]."))
    reporter.hear(Finished(summary=SUMMARY))
    reporter.close()
    return stream.getvalue()


def standing(step: int) -> Standing:
    """Give how a run of 50,000 stands after so many batches of 32, one image of each failed."""
    return Standing(
        total=50_000,
        done=10_000 + 32 * step,
        failed={"truncated": step} if step else {},
        shards=50,
        shards_done=10,
        images_per_second=12.34 if step else 0.0,
        seconds_left=3599.6 if step else None,
        stage_seconds={},
    )


def test_terminal_shows_a_bar() -> None:
    """On a terminal one line shows done, total, images/s, failures and time left, within 80 columns."""
    text = shown(terminal=True)
    assert "10,096/50,000" in text
    assert "images/s · 3 failed · " in text
    assert "left" in text
    assert "A sentence with [brackets]." in text


def test_log_shows_plain_lines() -> None:
    """Elsewhere a plain line comes each time that some seconds have passed, without control characters."""
    assert "images/s ·" not in shown(terminal=False)
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, width=80))
    for step in range(2):
        reporter.hear(Progressed(standing(step)))
    assert stream.getvalue().splitlines() == [
        "10,000 of 50,000 images, 0.0 images/s · starting",
        "10,032 of 50,000 images, 12.3 images/s · 1 failed · 1 h 00 min left",
    ]


def test_quiet_shows_nothing() -> None:
    """Quiet is quiet, on a terminal and elsewhere."""
    assert shown(terminal=True, quiet=True) == shown(terminal=False, quiet=True) == ""


def test_summary_fits_eighty_columns() -> None:
    """The table at the end tells outcomes by cause, speed and stages, in 80 columns."""
    text = shown(terminal=False)
    assert max(len(line) for line in text.splitlines()) <= 80
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    wanted = [
        "50,000 images in out:",
        "captioned 49,991",
        "failed: not_found 7",
        "failed: truncated 2",
        "images/s 12.3",
        "encoder 88.5 s",
    ]
    assert [line for line in lines if line in wanted] == wanted
    assert "1,234 images in 1 min 40 s" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (605, "10 min 05 s"), (3600, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_duration(seconds: float, text: str) -> None:
    """Times are written as people say them."""
    assert duration(seconds) == text


def test_stages_count_from_any_thread() -> None:
    """Seconds of several threads add up, in the order of the pipeline; an error does not lose them."""
    stages = Stages()

    def work() -> None:
        with stages.time(Stage.IMAGES):
            time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(KeyError), stages.time(Stage.READ):
        raise KeyError
    seconds = stages.seconds()
    assert list(seconds) == ["reading the source", "decoding images"]
    assert seconds["decoding images"] >= 0.08


def test_rate_of_nothing() -> None:
    """A run that took no time has no speed."""
    assert Summary(output="x", rows=0, failed={}, shards=0, captioned=0, seconds=0.0, stages={}).images_per_second == 0.0


def test_the_first_captions_are_shown_at_the_end() -> None:
    """A newcomer sees what is in the table: the first captions, no more, and nothing in a name can steer the terminal."""
    console = Console(file=io.StringIO(), width=80)
    reporter = Reporter(console)
    reporter.hear(Advanced(standing(1), [("a\x1b[2Jb.jpg", "a dog runs")]))
    reporter.hear(Advanced(standing(2), [(f"{number}.jpg", f"caption {number}") for number in range(100)]))
    summary = Summary(output="captions", rows=101, failed={}, shards=1, captioned=101, seconds=2.0, stages={})
    reporter.hear(Finished(summary=summary))
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert r"a\x1b[2Jb.jpg: a dog runs" in shown
    assert "6.jpg: caption 6" in shown
    assert "7.jpg: caption 7" not in shown
