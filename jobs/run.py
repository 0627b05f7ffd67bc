"""Caption every image of a source: the whole job, from a plan to a complete output.

In: a plan. Out: shards in a folder or one file, and how it went. Apart, because here the parts meet: reader, loader,
captioner, writer, output; each knows only its own.
"""

import platform
import shlex
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from capt.captions import Fingerprint, captions_schema, shard_name, write_captions
from capt.errors import CheckpointError, at_work
from jobs.events import Finished, Interrupted, NetworkLoaded, ShardWritten, Started
from jobs.interruption import Interruption
from jobs.loading import LoadedBatch, Loader, LoadingOptions, Work
from jobs.narrator import Narrator, failures
from jobs.output import Existing
from jobs.plan import CHOSEN_LATER, Plan, match
from jobs.progress import Stage, Stages, Summary
from jobs.together import agree, begin_extending, tell_session
from jobs.writer import Writer

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.captioner import Network


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
    begun, stages = datetime.now(UTC), Stages()
    with Interruption() as interruption, _quiet_pillow():
        network, fingerprint = _load_network(plan, stages, narrator) if plan.works else (None, plan.fingerprint)
        schema = captions_schema(fingerprint, plan.source.travelling)
        clock = time.perf_counter()
        with at_work(), plan.output.prepared(overwrite=plan.options.output.overwrite, shared=share is not None):
            if share is not None:
                _agree(plan, fingerprint)
            if plan.facts:
                begin_extending(plan.output.folder)
            plan.output.unpack()
            captioned = 0
            if network is not None:
                captioned = _Session(plan, network, schema, stages, narrator).caption_all(interruption)
            if interruption.is_requested():
                finished = plan.own_rows - plan.to_caption + captioned
                name = signal.Signals(interruption.signal or 0).name
                narrator.tell(Interrupted(signal=name, done=finished, total=plan.own_rows))
                return Outcome(interrupted_by=interruption.signal, finished=finished)
            _fill_gaps(plan, schema)
            summary = _summarise(plan, captioned, time.perf_counter() - clock, stages)
            _leave_word(plan, _report(plan, summary, fingerprint, begun), schema)
            narrator.tell(Finished(summary=summary, facts=plan.facts))
            if share is not None:
                narrator.say(f"Share {share} is complete. {_how_to_merge(plan)}")
            return Outcome(failed=summary.rows - summary.ok)


@dataclass(frozen=True)
class _Session:
    """One start of a run, with all that its work needs."""

    plan: Plan
    network: "Network"
    schema: "pa.Schema"
    stages: Stages
    narrator: Narrator

    def caption_all(self, interruption: Interruption) -> int:
        """Caption and write all works; returns how many images of finished shards there were."""
        from jobs.captioner import caption_batch  # noqa: PLC0415  imports torch

        plan = self.plan
        captioned = 0
        _begin(plan, self.stages, self.narrator)
        with (
            Writer(plan.output.folder, self.schema, self.stages, on_written=_teller(self.narrator)) as writer,
            Loader(plan.source, plan.works, self._loading(), self.stages) as loader,
        ):
            tables: list[pa.Table] = []
            for batch in _timed(loader.batches(interruption.is_requested), self.stages):
                tables.append(caption_batch(self.network, batch, self.schema, plan.book))
                self.narrator.advance(tables[-1])
                if batch.is_last:
                    writer.put(batch.work, tables)
                    captioned += len(batch.work.rows)
                    tables = []
        return captioned

    def _loading(self) -> LoadingOptions:
        options = self.plan.options
        return LoadingOptions(
            batch_size=options.network.batch_size,
            workers=options.network.workers,
            max_pixels=options.source.max_pixels,
            image_timeout=options.source.image_timeout,
            preprocessing=self.plan.preprocessing,
        )


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings about odd metadata off the terminal; what matters becomes a failed row."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        yield


def _timed(batches: Iterator[LoadedBatch], stages: Stages) -> Iterator[LoadedBatch]:
    while True:
        with stages.time(Stage.WAIT):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _load_network(plan: Plan, stages: Stages, narrator: Narrator) -> tuple["Network", Fingerprint]:
    """Load torch and the checkpoint, and complete the fingerprint by what `auto` came to."""
    clock = time.perf_counter()
    from capt.decoding import DecodingOptions  # noqa: PLC0415  imports torch
    from jobs.captioner import TorchNetwork  # noqa: PLC0415  imports torch

    options = replace(plan.options.network, precision=plan.fingerprint.precision)
    network = TorchNetwork(options, DecodingOptions(**plan.fingerprint.decoding), stages)  # type: ignore[arg-type]  # checked there
    if network.writers.sha256 != plan.fingerprint.checkpoint_sha256:
        which = " or ".join(map(str, network.writers.paths))
        message = f"The checkpoint {which} changed while it was read; start the same command again."
        raise CheckpointError(message)
    loaded = NetworkLoaded(
        checkpoint=plan.fingerprint.checkpoint_name,
        sha256=network.writers.sha256,
        device=str(network.device),
        precision=str(network.precision),
        runtime=str(network.runtime),
        seconds=round(time.perf_counter() - clock, 3),
    )
    narrator.tell(loaded)
    told = {name: number for name, number in plan.fingerprint.versions.items() if name not in CHOSEN_LATER}
    versions = {**told, **network.versions}
    return network, replace(plan.fingerprint, precision=str(network.precision), device=network.device.type, versions=versions)


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


def _teller(narrator: Narrator) -> Callable[[Work, Sequence["pa.Table"]], None]:
    """Make what a writer calls with each shard: it tells the seconds since the shard before, or since the beginning."""
    clock = time.perf_counter()

    def tell(work: Work, tables: Sequence["pa.Table"]) -> None:
        nonlocal clock
        before, clock = clock, time.perf_counter()
        failed = Counter(failure.kind for table in tables for failure in failures(table))
        seconds = round(clock - before, 3)
        narrator.tell(ShardWritten(number=work.shard.number, rows=len(work.rows), failed=failed, seconds=seconds))

    return tell


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


def _nothing_left(plan: Plan, narrator: Narrator) -> Outcome:
    summary = _summarise(plan)
    narrator.tell(Finished(summary=summary, facts=plan.facts, is_old=True))
    return Outcome(failed=summary.rows - summary.ok)


def _how_to_merge(plan: Plan) -> str:
    return f"When all shares are: {shlex.join(['capt-batch', 'merge', str(plan.output.path)])}"


def _agree(plan: Plan, fingerprint: Fingerprint) -> None:
    """Refuse to write what would not belong to the other machines' shards, such as for another precision."""
    decided = agree(plan.output.folder, fingerprint)
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
