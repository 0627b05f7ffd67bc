"""Caption every image of a source: the whole job, from a plan to a complete output.

In: a plan. Out: shards in a folder or one file, and how it went. Apart, because here the parts meet: plan, engine, output; each
knows only its own.
"""

import platform
import shlex
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from capt.captions import Fingerprint, captions_schema, shard_name, write_captions
from capt.errors import OutputError, at_work
from capt.files import write_whole
from jobs.engines import Engine, make_task, open_engine
from jobs.events import Finished, Interrupted, Started
from jobs.interruption import Interruption
from jobs.narrator import Narrator
from jobs.output import Existing, int8_path
from jobs.plan import Plan, match
from jobs.progress import Stages, Summary
from jobs.together import agree, begin_extending, tell_session

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: complete, with so many failed rows; or interrupted by a signal, with so many rows in finished shards."""

    failed: int = 0
    interrupted_by: int | None = None
    finished: int = 0


def run(plan: Plan, narrator: Narrator) -> Outcome:
    """Do what a plan says.

    Args:
        plan: From `prepare`.
        narrator: Told how it goes on; entered and closed by whoever calls.

    Returns:
        How it ended.

    Raises:
        CaptError: If the network cannot be loaded; marked as during work if the output or the source fails later.
    """
    narrator.tell(_beginning(plan))
    for warning in plan.warnings:
        narrator.warn(warning)
    share = plan.options.output.share
    if plan.report is not None:
        narrator.say(f"{plan.output.path} is complete: {plan.source.rows:,} rows. Nothing is left to do.")
        return _nothing_left(plan, narrator)
    if share is not None and not plan.works:
        narrator.say(f"Share {share} of {plan.output.path} is complete: {plan.own_rows:,} rows. {_how_to_merge(plan)}")
        return _nothing_left(plan, narrator)
    begun, stages = datetime.now(UTC), Stages(narrator.waits)
    with (
        Interruption() as interruption,
        _quiet_pillow(),
        open_engine(plan, stages, narrator, interruption.is_requested) if plan.works else nullcontext() as engine,
    ):
        if interruption.is_requested():
            return _interrupted(plan, narrator, interruption, 0)
        fingerprint = engine.fingerprint if engine is not None else plan.fingerprint
        schema = captions_schema(fingerprint, plan.source.travelling)
        clock = time.perf_counter()
        with at_work(), plan.output.prepared(overwrite=plan.options.output.overwrite, shared=share is not None):
            _agree(plan, fingerprint, engine)
            if plan.facts:
                begin_extending(plan.output.folder)
            plan.output.unpack()
            captioned = 0
            if engine is not None:
                _begin(plan, stages, narrator)
                captioned = engine.caption_all(make_task(plan, schema), narrator, interruption.is_requested)
            if interruption.is_requested():
                return _interrupted(plan, narrator, interruption, captioned)
            with narrator.waits.of(f"completing {plan.output.path}"):
                _fill_gaps(plan, schema)
                plan.output.check_shards(shard.number for shard in plan.own)
                summary = _summarise(plan, captioned, time.perf_counter() - clock, stages)
                _leave_word(plan, _report(plan, summary, fingerprint, begun), schema)
            narrator.tell(Finished(summary=summary, facts=plan.facts))
            if share is not None:
                narrator.say(f"Share {share} is complete. {_how_to_merge(plan)}")
            return Outcome(failed=summary.rows - summary.ok)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings about odd metadata off the terminal; what matters becomes a failed row."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        yield


def _beginning(plan: Plan) -> Started:
    share = plan.options.output.share
    return Started(
        source=plan.options.source.source,
        output=str(plan.output.path),
        images=plan.own_rows,
        shards=len(plan.own),
        to_caption=plan.to_caption,
        share=None if share is None else str(share),
    )


def _begin(plan: Plan, stages: Stages, narrator: Narrator) -> None:
    """Tell how far the run is before its first image, and that it goes on from there."""
    begun = {work.shard.number for work in plan.works}
    finished = [shard.number for shard in plan.own if shard.number not in begun and shard.stop > shard.start]
    narrator.begin(
        total=plan.own_rows,
        done=plan.own_rows - plan.to_caption,
        failed=plan.output.count_failures(finished),
        shards=len(plan.own),
        shards_done=len(plan.own) - len(begun),
        stages=stages,
    )


def _summarise(plan: Plan, captioned: int = 0, seconds: float = 0.0, stages: Stages | None = None) -> Summary:
    failed = plan.failed_before
    if failed is None:
        failed = plan.output.count_failures(shard.number for shard in plan.own)
    return Summary(
        output=str(plan.output.path),
        rows=plan.own_rows,
        failed=dict(failed),
        shards=len(plan.own),
        captioned=captioned,
        seconds=seconds,
        stages=stages.seconds() if stages is not None else {},
    )


def _interrupted(plan: Plan, narrator: Narrator, interruption: Interruption, captioned: int) -> Outcome:
    finished = plan.own_rows - plan.to_caption + captioned
    name = signal.Signals(interruption.signal or 0).name
    narrator.tell(Interrupted(signal=name, done=finished, total=plan.own_rows))
    return Outcome(interrupted_by=interruption.signal, finished=finished)


def _nothing_left(plan: Plan, narrator: Narrator) -> Outcome:
    summary = _summarise(plan)
    narrator.tell(Finished(summary=summary, facts=plan.facts, is_old=True))
    return Outcome(failed=summary.rows - summary.ok)


def _how_to_merge(plan: Plan) -> str:
    return f"When all shares are: {shlex.join(['capt-batch', 'merge', str(plan.output.path)])}"


def _agree(plan: Plan, fingerprint: Fingerprint, engine: Engine | None) -> None:
    """Leave the int8 encoder for whoever goes on, and refuse what would not belong to the other machines' shards."""
    folder, own = plan.output.folder, fingerprint.encoder_sha256
    if engine is not None and engine.quantised is not None and own is not None:
        write_whole(int8_path(folder, own), engine.quantised)
    if plan.options.output.share is None:
        return
    decided = agree(folder, fingerprint)
    if own is not None and decided.encoder_sha256 not in {None, own}:
        int8_path(folder, own).unlink(missing_ok=True)
        message = "Another machine began at the same moment with an int8 encoder of its own; start the same command again."
        raise OutputError(message)
    match(fingerprint, Existing(fingerprint=decided, shards={}, report=None), plan.output)


def _fill_gaps(plan: Plan, schema: "pa.Schema") -> None:
    """Write the shards for which an extended source has no image left, so that no number is missing."""
    for shard in plan.shards:
        if shard.start == shard.stop:
            write_captions([], schema, plan.output.folder / shard_name(shard.number))


def _leave_word(plan: Plan, report: dict[str, object], schema: "pa.Schema") -> None:
    """Make the run complete or, when this was a share of it, tell whoever merges it how it went."""
    share = plan.options.output.share
    if share is None:
        plan.output.complete(report, schema, len(plan.shards))
    else:
        tell_session(plan.output.folder, {**report, "share": str(share), "host": platform.node()})


def _report(plan: Plan, summary: Summary, fingerprint: Fingerprint, begun: datetime) -> dict[str, object]:
    return {
        "source": plan.options.source.source,
        **summary.figures(),
        **plan.facts,
        "started": begun.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": fingerprint.to_dict(),
    }
