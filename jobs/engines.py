"""What captions the works of a plan: this process, or actors on a Ray cluster.

In: a plan, then its task. Out: finished shards in the output's folder. Apart from the run, which is the same whoever does the
work; and what one process does of it is the same here and on another machine.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from capt.captions import Fingerprint
from capt.errors import CheckpointError
from capt.remote import Location
from jobs.events import NetworkLoaded, ShardWritten
from jobs.loading import LoadedBatch, Loader, LoadingOptions, Work
from jobs.narrator import Narrator, failures
from jobs.options import INT8, EngineName, NetworkOptions
from jobs.plan import CHOSEN_LATER, Plan
from jobs.progress import Stage, Stages
from jobs.source import ReferenceBook, Source
from jobs.writer import Writer

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.captioner import Network

IsInterrupted = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be captioned, and where the shards go; it can be pickled, for actors elsewhere."""

    source: Source
    book: ReferenceBook | None
    works: Sequence[Work]
    folder: Location
    schema: "pa.Schema"
    loading: LoadingOptions


class Told(Protocol):
    """Whoever is told how the work goes on."""

    def advance(self, table: "pa.Table") -> None:
        """Hear of images that are done: their rows."""
        ...

    def written(self, work: Work, tables: Sequence["pa.Table"]) -> None:
        """Hear, from another thread, of a shard that is on disk."""
        ...


class Engine(Protocol):
    """Whatever captions a task."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What the run is made with, complete."""
        ...

    @property
    def quantised(self) -> bytes | None:
        """File of the encoder, where it computes in int8; for those who go on with the run."""
        ...

    def caption_all(self, task: Task, narrator: Narrator, is_interrupted: IsInterrupted) -> int:
        """Caption and write all works; gives how many images of finished shards there were."""
        ...


def make_task(plan: Plan, schema: "pa.Schema") -> Task:
    """Take from a plan what captioning needs.

    Args:
        plan: From `prepare`.
        schema: Of the tables.

    Returns:
        The task.
    """
    return Task(
        source=plan.source, book=plan.book, works=plan.works, folder=plan.output.folder, schema=schema, loading=plan.loading
    )


@contextmanager
def open_engine(plan: Plan, stages: Stages, narrator: Narrator, is_interrupted: IsInterrupted) -> Iterator[Engine]:
    """Make the engine that was asked for ready to work.

    Args:
        plan: From `prepare`.
        stages: Where the seconds are counted.
        narrator: Told which network was loaded, and what comes before.
        is_interrupted: Asked while a cluster is waited for.

    Yields:
        The engine.

    Raises:
        CaptError: If the network cannot be loaded, or the cluster not be used.
    """
    clock = time.perf_counter()
    if plan.options.engine.engine == EngineName.RAY:
        from jobs.ray_engine import open_ray  # noqa: PLC0415  imports ray, which an extra brings

        with open_ray(plan, stages, is_interrupted) as engine:
            if not is_interrupted():
                narrator.tell(_loaded(engine.fingerprint, time.perf_counter() - clock))
            yield engine
    else:
        engine_here = LocalEngine(plan, stages, narrator)
        narrator.tell(_loaded(engine_here.fingerprint, time.perf_counter() - clock))
        yield engine_here


def _loaded(fingerprint: Fingerprint, seconds: float) -> NetworkLoaded:
    return NetworkLoaded(
        checkpoint=fingerprint.checkpoint_name,
        sha256=fingerprint.checkpoint_sha256,
        device=fingerprint.device,
        precision=fingerprint.precision,
        runtime=next(iter(CHOSEN_LATER & fingerprint.versions.keys()), "torch"),
        seconds=round(seconds, 3),
    )


class _NarratedShards:
    """Tells a narrator of batches, and of each shard how long it took since the one before."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator, self._clock = narrator, time.perf_counter()

    def advance(self, table: "pa.Table") -> None:
        self._narrator.advance(table)

    def written(self, work: Work, tables: Sequence["pa.Table"]) -> None:
        before, self._clock = self._clock, time.perf_counter()
        failed = Counter(failure.kind for table in tables for failure in failures(table))
        seconds = round(self._clock - before, 3)
        self._narrator.tell(ShardWritten(number=work.shard.number, rows=len(work.rows), failed=failed, seconds=seconds))


class LocalEngine:
    """Captions in this process."""

    quantised: bytes | None = None

    def __init__(self, plan: Plan, stages: Stages, narrator: Narrator) -> None:
        """Load the network.

        Args:
            plan: From `prepare`.
            stages: Where the seconds are counted.
            narrator: Told when the encoder is quantised first.

        Raises:
            CaptError: If it cannot be loaded.
        """
        self._stages = stages
        if plan.fingerprint.precision == INT8:
            from jobs.calibration import int8_encoder  # noqa: PLC0415  imports torch

            self.quantised = int8_encoder(plan, stages, narrator)
        self._network, self.fingerprint = load_network(plan.options.network, plan.fingerprint, stages, self.quantised)

    def caption_all(self, task: Task, narrator: Narrator, is_interrupted: IsInterrupted) -> int:
        """Caption and write all works.

        Args:
            task: What, and where to.
            narrator: Told how it goes on.
            is_interrupted: Asked between batches.

        Returns:
            How many images of finished shards there were.

        Raises:
            CaptError: If the source cannot be read or a shard not be written any more.
        """
        return caption_works(task, task.works, self._network, self._stages, _NarratedShards(narrator), is_interrupted)


def load_network(
    options: NetworkOptions, decided: Fingerprint, stages: Stages, quantised: bytes | None = None
) -> tuple["Network", Fingerprint]:
    """Load torch and the checkpoint, and complete a fingerprint by what `auto` came to.

    Args:
        options: Which network, where and how.
        decided: The fingerprint as far as it is known; its precision counts.
        stages: Where the network's seconds are counted.
        quantised: File of the encoder, for int8.

    Returns:
        The network, and the fingerprint with precision, device, versions and, for int8, the encoder's digest.

    Raises:
        CaptError: If the checkpoint or the device cannot be used.
    """
    from capt.decoding import DecodingOptions  # noqa: PLC0415  imports torch
    from jobs.captioner import TorchNetwork  # noqa: PLC0415  imports torch

    options = replace(options, precision=decided.precision)
    network = TorchNetwork(options, DecodingOptions(**decided.decoding), stages, quantised)  # type: ignore[arg-type]  # checked there
    if network.writers.sha256 != decided.checkpoint_sha256:
        which = " or ".join(map(str, network.writers.paths))
        message = f"The checkpoint {which} changed while it was read; start the same command again."
        raise CheckpointError(message)
    others = {name: number for name, number in decided.versions.items() if name not in CHOSEN_LATER}
    versions = {**others, **network.versions}
    return network, replace(
        decided,
        precision=str(network.precision),
        device=network.device.type,
        versions=versions,
        encoder_sha256=None if quantised is None else hashlib.sha256(quantised).hexdigest(),
    )


def caption_works(  # noqa: PLR0913, PLR0917  what, by whom, and three who are told or asked
    task: Task, works: Sequence[Work], network: "Network", stages: Stages, told: Told, is_interrupted: IsInterrupted
) -> int:
    """Caption and write some works of a task in this process.

    Args:
        task: Where the images come from and the shards go.
        works: Which ones, in order.
        network: Captions.
        stages: Where the seconds are counted.
        told: Of each batch, and each shard.
        is_interrupted: Asked between batches; the work that was begun then is left.

    Returns:
        How many images of finished shards there were.

    Raises:
        CaptError: If the source cannot be read or a shard not be written any more.
    """
    from jobs.captioner import caption_batch  # noqa: PLC0415  imports torch

    def caption(batch: LoadedBatch) -> "pa.Table":
        return caption_batch(network, batch, task.schema, task.book)

    captioned = 0
    with (
        Writer(task.folder, task.schema, stages, on_written=told.written) as writer,
        Loader(task.source, works, task.loading, stages) as loader,
    ):
        tables: list[pa.Table] = []
        batches = _timed(loader.batches(is_interrupted), stages)
        for batch, table in _in_order(caption, batches, network.batches_at_once, is_interrupted):
            tables.append(table)
            told.advance(table)
            if batch.is_last:
                writer.put(batch.work, tables)
                captioned += len(batch.work.rows)
                tables = []
    return captioned


def _in_order(
    caption: "Callable[[LoadedBatch], pa.Table]", batches: Iterable[LoadedBatch], at_once: int, is_interrupted: IsInterrupted
) -> Iterator[tuple[LoadedBatch, "pa.Table"]]:
    """Caption some batches at the same time and give them in their order; after an interruption those in work are left."""
    if at_once == 1:
        yield from ((batch, caption(batch)) for batch in batches)
        return
    waiting: deque[tuple[LoadedBatch, Future[pa.Table]]] = deque()
    with ThreadPoolExecutor(at_once, "batch") as pool:
        for batch in batches:
            waiting.append((batch, pool.submit(caption, batch)))
            if len(waiting) == at_once:
                first, table = waiting.popleft()
                yield first, table.result()
        while waiting and not is_interrupted():
            first, table = waiting.popleft()
            yield first, table.result()


def _timed(batches: Iterator[LoadedBatch], stages: Stages) -> Iterator[LoadedBatch]:
    while True:
        with stages.time(Stage.WAIT):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
