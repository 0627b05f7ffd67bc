"""Tests of jobs.narrator: everybody hears the same, one at a time, and nobody's trouble is another's."""

import time

import pyarrow as pa
import pytest

import jobs.narrator
import jobs.waits
from capt.errors import InputError, OutputError, at_work
from jobs.events import Advanced, Began, Broken, Event, Failure, Progressed, Said, ShardWritten, Warned
from jobs.narrator import Narrator, failures
from jobs.progress import Stage, Stages

TABLE = pa.table(
    {
        "image_id": ["a", "b", "c"],
        "caption": ["a dog", None, None],
        "status": ["ok", "failed", "failed"],
        "error": [None, "empty: The file has zero bytes.", "corrupt: It cannot be decoded (OSError: bad)."],
    }
)


class Ear:
    """Keeps what it hears; may fail each time."""

    def __init__(self, *, error: Exception | None = None) -> None:
        """Have heard nothing."""
        self.heard: list[Event] = []
        self.is_closed = False
        self._error = error

    def hear(self, event: Event) -> None:
        """Keep an event."""
        self.heard.append(event)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Note it."""
        self.is_closed = True


def begin(narrator: Narrator) -> None:
    """Begin a run of ten images in five shards, two of each done before."""
    narrator.begin(total=10, done=4, failed={"empty": 1}, shards=5, shards_done=2, stages=Stages())


def test_what_takes_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread waits for is told after some seconds, before work and in it, and again only when it took twice as long."""
    monkeypatch.setattr(jobs.narrator, "_INTERVAL", 0.01)
    monkeypatch.setattr(jobs.waits, "_LONG", 0.1)
    ear = Ear()
    with Narrator(ear) as narrator, narrator.waits.of("looking at photographs"):
        time.sleep(0.5)
        begin(narrator)
        with Stages(narrator.waits).time(Stage.WRITE, "writing captions-00000.parquet"):
            time.sleep(0.3)
    told = [event.sentence for event in ear.heard if isinstance(event, Warned)]
    assert told[0] == "Still looking at photographs, for 0 s now; Ctrl-C ends it, and what is finished is kept."
    assert any("writing captions-00000.parquet" in sentence for sentence in told)
    assert 3 <= len(told) <= 6
    assert not narrator.waits.overdue()


def test_one_count_for_all() -> None:
    """Listeners hear the same counts, what earlier starts did included, and the captions and failures of each batch."""
    one, other = Ear(), Ear()
    with Narrator(one) as narrator:
        narrator.add(other)
        begin(narrator)
        narrator.advance(TABLE)
        narrator.tell(ShardWritten(number=3, rows=3, failed={"empty": 1, "corrupt": 1}, seconds=1.0))
        narrator.advance(TABLE)
    assert one.heard == other.heard
    assert one.is_closed
    assert other.is_closed
    began, first, _, second = one.heard
    assert isinstance(began, Began)
    assert isinstance(first, Advanced)
    assert isinstance(second, Advanced)
    assert (began.standing.done, began.standing.failed, began.standing.seconds_left) == (4, {"empty": 1}, None)
    assert (first.standing.done, first.standing.failed, first.standing.shards_done) == (7, {"empty": 2, "corrupt": 1}, 2)
    assert (second.standing.done, second.standing.shards_done, second.standing.total) == (10, 3, 10)
    assert first.captions == [("a", "a dog")]
    assert first.failures == failures(TABLE)
    assert failures(TABLE) == [
        Failure(image_id="b", kind="empty", sentence="The file has zero bytes."),
        Failure(image_id="c", kind="corrupt", sentence="It cannot be decoded (OSError: bad)."),
    ]


def test_a_silent_run_is_told_of_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no image is done, listeners still hear how the run stands: a stall can be seen."""
    monkeypatch.setattr(jobs.narrator, "_INTERVAL", 0.01)
    ear = Ear()
    with Narrator(ear) as narrator:
        begin(narrator)
        deadline = time.monotonic() + 30
        while sum(isinstance(event, Progressed) for event in ear.heard) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    last = ear.heard[-1]
    assert isinstance(last, Progressed)
    assert (last.standing.done, last.standing.images_per_second, last.standing.seconds_left) == (4, 0.0, None)


@pytest.mark.parametrize("error", [OutputError("The log x cannot be written."), OSError("The log x cannot be written.")])
def test_a_listener_that_fails_is_named_once(error: Exception) -> None:
    """Whoever cannot take note costs the run nothing: one warning, which the others hear, and it may hear on."""
    deaf, ear = Ear(error=error), Ear()
    with Narrator(deaf, ear) as narrator:
        narrator.say("One.")
        narrator.say("Two.")
    warning = Warned("The log x cannot be written. The run goes on.")
    assert ear.heard == [warning, Said("One."), Said("Two.")]
    assert Said("Two.") in deaf.heard


def test_an_error_is_told_with_its_exit_code() -> None:
    """What ends the run reaches all listeners with the code that the program ends with, and goes on its way."""
    ear = Ear()
    with pytest.raises(InputError), Narrator(ear):
        raise InputError("No images.")  # noqa: EM101, TRY003  the sentence is what is looked for
    with pytest.raises(InputError), Narrator(ear), at_work():
        raise InputError("No images any more.")  # noqa: EM101, TRY003  the same
    with pytest.raises(ZeroDivisionError), Narrator(ear):
        _ = 1 / 0
    before, during, unforeseen = ear.heard
    assert before == Broken(sentence="No images.", exit_code=2)
    assert during == Broken(sentence="No images any more.", exit_code=3)
    assert isinstance(unforeseen, Broken)
    assert (unforeseen.exit_code, "ZeroDivisionError" in unforeseen.sentence) == (3, True)


def test_long_run_keeps_a_short_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is of the last half minute, so memory does not grow and a slow start is forgotten."""
    clock = iter(range(0, 10_000, 10))
    ear = Ear()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with Narrator(ear) as narrator:
        begin(narrator)
        for _ in range(100):
            narrator.advance(TABLE)
    last = ear.heard[-1]
    assert isinstance(last, Advanced)
    assert last.standing.images_per_second == pytest.approx(0.3)
    assert len(narrator._history) < 6
