"""Caption on a Ray cluster: Ray Data gives shards to actors, each with its own network; what a dead node had is done again.

In: a plan, then its task. Out: the shards that one process would write, written by the actors into the folder that all nodes
see. Apart from the engines, because only this knows Ray.
"""

import json
import os
import queue
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capt.captions import Fingerprint, shard_name
from capt.errors import DEBUG, CaptError, OutputError, first_line, unforeseen
from capt.files import write_whole
from capt.remote import Location
from jobs.engines import IsInterrupted, Task, caption_works, load_network
from jobs.events import Failure, ShardWritten
from jobs.loading import Work
from jobs.narrator import Narrator, captions_in, failures
from jobs.options import NetworkOptions
from jobs.plan import Plan
from jobs.progress import Stages
from jobs.ray_cluster import Crew, alive_nodes, connected, count_places, muted, plan_crew

if TYPE_CHECKING:
    import pyarrow as pa

_ATTEMPTS = 3  # workers that one shard may bring down before it is given up
_SAMPLES = 8  # captions that are sent back with a shard
_PATIENCE = 0.2  # seconds between looks at whether to stop
_GRACE = 8.0  # seconds for actors to leave what they do
_BETWEEN_LOOKS = 5.0  # seconds between looks at which nodes are alive
_WITHOUT_ROOM = 900.0  # seconds to wait for a node when none is left: clusters grow by themselves, but slowly
_VISIBLE_AFTER = 10.0  # seconds until a network file system shows a new file


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What an actor needs beside the task: how to load the network, what was decided about it, and where the driver is."""

    network: NetworkOptions
    fingerprint: Fingerprint
    attempts_to_load: int
    sign: str
    working_folder: str
    is_debugged: bool


@dataclass(kw_only=True)
class Facts:
    """How one work went, as an actor tells the driver; also the listener that gathers it."""

    number: int
    captioned: int = 0
    failed: list[Sequence[str]] = field(default_factory=list)
    took: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    samples: list[Sequence[str]] = field(default_factory=list)
    problem: str | None = None

    def advance(self, table: "pa.Table") -> None:
        """Keep the first captions and what failed; the rows count when the shard is written.

        Args:
            table: Rows of the work.
        """
        self.samples += captions_in(table)[: _SAMPLES - len(self.samples)]
        self.failed += [(failure.image_id, failure.kind, failure.sentence) for failure in failures(table)]

    def written(self, work: Work, tables: Sequence["pa.Table"]) -> None:
        """Hear that the shard is on disk, which the end of the call says as well.

        Args:
            work: Which one.
            tables: Its rows.
        """


class Board:
    """What actors and driver tell each other: an actor beside the driver, so that it outlives every other node."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self._attempts: Counter[int] = Counter()
        self._loads = 0
        self._stopped = False

    def load(self) -> int:
        """Hear that a network is being loaded; gives how many were since the last shard was finished."""
        self._loads += 1
        return self._loads

    def begin(self, number: int) -> int:
        """Hear that a work is begun; gives how often it was."""
        self._attempts[number] += 1
        return self._attempts[number]

    def finish(self, number: int) -> None:
        """Hear that a work is done."""
        self._loads = self._attempts[number] = 0

    def stop(self) -> None:
        """Ask all actors to leave what they do."""
        self._stopped = True

    def is_stopped(self) -> bool:
        """Whether they are asked to."""
        return self._stopped


class ShardCaptioner:
    """What each actor is for Ray Data: loads the network once, then captions and writes one shard a call."""

    def __init__(self, *, task: Any, orders: Orders, board: Any) -> None:  # noqa: ANN401  Ray's references have no types
        """Load the network; what a user can mend is kept, and told at the first call.

        Args:
            task: Reference to the task.
            orders: What was decided.
            board: Where word is left.
        """
        import ray  # noqa: PLC0415  an extra brings it

        self._get, self._board = ray.get, board
        self._stages, self._looked, self._stopped = Stages(), 0.0, False
        self._problem: str | None = None
        self._is_debugged = orders.is_debugged
        with suppress(OSError):  # where the nodes do not share it, only absolute paths lead anywhere
            os.chdir(orders.working_folder)
        try:
            self._task: Task = ray.get(task)
            _see(self._task.folder, orders.sign)
            if ray.get(board.load.remote()) > orders.attempts_to_load:
                message = "Workers end again and again while they load the network; give them more memory, or fewer --actors."
                raise CaptError(message)  # noqa: TRY301  told like the others
            self._network, own = load_network(orders.network, orders.fingerprint, self._stages)
            _check_same(own, orders.fingerprint)
        except Exception as error:  # noqa: BLE001  it is told by the driver
            self._problem = self._tell(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Caption one work.

        Args:
            batch: Its number, in the column `item`.

        Returns:
            How it went.
        """
        return {"facts": [json.dumps(asdict(self._caption(int(batch["item"][0]))))]}

    def _caption(self, number: int) -> Facts:
        if self._problem is not None:
            return Facts(number=number, problem=self._problem)
        work, before = self._task.works[number], Counter(self._stages.seconds())
        facts = Facts(number=number)
        if self._get(self._board.begin.remote(number)) > _ATTEMPTS:
            name = shard_name(work.shard.number)
            facts.problem = (
                f"{_ATTEMPTS} workers ended while they did {name}, perhaps for want of memory; "
                "lower --batch-size or --workers, or give fewer --actors, and start the same command again."
            )
            return facts
        clock = time.monotonic()
        try:
            facts.captioned = caption_works(self._task, [work], self._network, self._stages, facts, self._is_stopped)
        except Exception as error:  # noqa: BLE001  it is told by the driver
            facts.problem = self._tell(error)
        else:
            self._get(self._board.finish.remote(number))
        facts.took = round(time.monotonic() - clock, 3)
        facts.seconds = {name: passed - before[name] for name, passed in self._stages.seconds().items()}
        return facts

    def _tell(self, error: Exception) -> str:
        if isinstance(error, CaptError):
            return str(error)
        if self._is_debugged:
            raise error
        return unforeseen(error)

    def _is_stopped(self) -> bool:
        if not self._stopped and time.monotonic() - self._looked > _PATIENCE:
            self._stopped, self._looked = self._get(self._board.is_stopped.remote()), time.monotonic()
        return self._stopped


def _see(folder: Location, sign: str) -> None:
    """Refuse a node that does not see what the driver put into the output's folder."""
    until = time.monotonic() + _VISIBLE_AFTER
    while not (folder / sign).exists():
        if time.monotonic() > until:
            message = (
                f"The node {socket.gethostname()} does not see the folder {folder}; "
                "give an --output, and images, in a folder that all nodes of the cluster share."
            )
            raise OutputError(message)
        time.sleep(_PATIENCE)


def _check_same(own: Fingerprint, decided: Fingerprint) -> None:
    different = [*own.differences(decided), *(each for each in own.changes(decided) if each[0] == "device")]
    if different:
        changes = "; ".join(f"{key} is {here} and not {there}" for key, here, there in different)
        message = f"The node {socket.gethostname()} would caption differently ({changes}); use nodes that are alike."
        raise CaptError(message)


@contextmanager
def open_ray(plan: Plan, stages: Stages, is_interrupted: IsInterrupted) -> Iterator["RayEngine"]:
    """Connect to a cluster, or start one, and let one of its nodes say what captions are made with.

    Args:
        plan: From `prepare`.
        stages: Where the seconds are counted.
        is_interrupted: Asked while the cluster is waited for.

    Yields:
        The engine; in the end the cluster is left, or ended if it was started here.

    Raises:
        CaptError: If there is no such cluster, no actor fits, or the network cannot be loaded there.
    """
    with ExitStack() as stack:
        if not os.environ.get(DEBUG):
            stack.enter_context(muted())
        stack.enter_context(connected(plan.options.engine.ray_address))
        crew = plan_crew(plan.options, alive_nodes(), len(plan.works))
        checkpoints = [path.absolute() for path in plan.options.network.checkpoints]
        network = replace(plan.options.network, checkpoints=checkpoints, device=crew.device, workers=crew.processors)
        fingerprint = _decide(crew, network, plan.fingerprint, is_interrupted)
        yield RayEngine(crew, replace(network, precision=fingerprint.precision), fingerprint, stages)


def _decide(crew: Crew, network: NetworkOptions, asked: Fingerprint, is_interrupted: IsInterrupted) -> Fingerprint:
    """Let one node load the network before anything is written: what it says holds for all, and what it refuses ends the run."""
    import ray  # noqa: PLC0415  an extra brings it

    folder = str(Path.cwd())
    remote = ray.remote(num_cpus=crew.processors, num_gpus=crew.gpus, max_retries=_ATTEMPTS)(_look)
    answer = remote.remote(network, asked, folder)
    while not is_interrupted():
        if ray.wait([answer], timeout=_PATIENCE)[0]:
            try:
                fingerprint, problem = ray.get(answer)
            except Exception as error:
                raise _translate(error) from error
            if problem is not None:
                raise CaptError(problem)
            return Fingerprint.from_json(fingerprint)
    return asked


def _look(network: NetworkOptions, asked: Fingerprint, folder: str) -> tuple[bytes | str, str | None]:
    with suppress(OSError):
        os.chdir(folder)
    try:
        return load_network(network, asked, Stages())[1].to_json(), None
    except CaptError as error:
        return "", str(error)


class RayEngine:
    """Captions by actors on a Ray cluster."""

    quantised = None

    def __init__(self, crew: Crew, network: NetworkOptions, fingerprint: Fingerprint, stages: Stages) -> None:
        """Know what each actor will have; none is started.

        Args:
            crew: How many, with what.
            network: What each loads.
            fingerprint: What was decided about it.
            stages: Where the seconds are counted.
        """
        self.crew, self.fingerprint = crew, fingerprint
        self._network, self._stages = network, stages

    def caption_all(self, task: Task, narrator: Narrator, is_interrupted: IsInterrupted) -> int:
        """Have all works captioned and written.

        Args:
            task: What, and where to.
            narrator: Told after each shard.
            is_interrupted: Asked often; the shards that are begun then are left.

        Returns:
            How many images of finished shards there were.

        Raises:
            CaptError: If an actor met something that ends a run, or the cluster is lost.
        """
        told: set[int] = set()
        folder = task.folder.absolute() if isinstance(task.folder, Path) else task.folder
        task = replace(task, folder=folder, loading=replace(task.loading, workers=self.crew.processors))
        sign = f".{uuid.uuid4().hex}.tmp"
        try:
            write_whole(folder / sign, b"")
            for facts in self._run(task, sign, _Watch(self.crew, narrator), is_interrupted):
                self._stages.add(facts.seconds)
                if facts.problem is not None:
                    raise CaptError(facts.problem)
                if facts.captioned:
                    told.add(facts.number)
                    _tell(narrator, task.works[facts.number], facts)
        except OSError as error:
            message = f"{folder} cannot be written ({error.strerror or error}); choose another --output."
            raise OutputError(message) from error
        finally:
            _clear_up(task, sign)
        return _count_finished(task, told)

    def _run(self, task: Task, sign: str, watch: "_Watch", is_interrupted: IsInterrupted) -> Iterator[Facts]:
        """Give how each work went, as they are finished."""
        board = _start_board()
        results: queue.Queue[Facts | BaseException | None] = queue.Queue()
        stopping = threading.Event()
        dataset = self._dataset(task, sign, board)
        thread = threading.Thread(target=_consume, args=(dataset, results, stopping), name="ray-data", daemon=True)
        thread.start()
        try:
            while not is_interrupted():
                try:
                    facts = results.get(timeout=_PATIENCE)
                except queue.Empty:
                    watch.look()
                    continue
                if facts is None:
                    return
                if isinstance(facts, BaseException):
                    raise _translate(facts) from facts
                yield facts
        finally:
            stopping.set()
            board.stop.remote()
            thread.join(timeout=_GRACE)
        while not results.empty():  # what was finished while the others were stopped
            facts = results.get()
            if isinstance(facts, Facts):
                yield facts

    def _dataset(self, task: Task, sign: str, board: Any) -> Any:  # noqa: ANN401  Ray ships no types
        import ray  # noqa: PLC0415  an extra brings it
        import ray.data  # noqa: PLC0415  the same

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        orders = Orders(
            network=self._network,
            fingerprint=self.fingerprint,
            attempts_to_load=_ATTEMPTS * (self.crew.actors + 1),
            sign=sign,
            working_folder=str(Path.cwd()),
            is_debugged=bool(os.environ.get(DEBUG)),
        )
        works = len(task.works)
        return ray.data.from_items(list(range(works)), override_num_blocks=works).map_batches(
            ShardCaptioner,
            fn_constructor_kwargs={"task": ray.put(task), "orders": orders, "board": board},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self.crew.actors, max_tasks_in_flight_per_actor=1),
            num_cpus=self.crew.processors,
            num_gpus=self.crew.gpus,
        )


class _Watch:
    """Says when nodes come and go, and ends the wait for nodes that never come."""

    def __init__(self, crew: Crew, narrator: Narrator) -> None:
        self._crew, self._narrator = crew, narrator
        self._nodes = len(alive_nodes())
        self._looked = self._had_room = time.monotonic()

    def look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _BETWEEN_LOOKS:
            return
        nodes = alive_nodes()
        self._looked = now
        if len(nodes) != self._nodes:
            self._narrator.warn(f"The Ray cluster has {len(nodes)} nodes now; there were {self._nodes}.")
            self._nodes = len(nodes)
        if count_places(nodes, self._crew.processors, self._crew.gpus):
            self._had_room = now
        elif now - self._had_room > _WITHOUT_ROOM:
            message = "No node of the Ray cluster has room for an actor any more; mend it and start the same command again."
            raise CaptError(message)


def _start_board() -> Any:  # noqa: ANN401  Ray ships no types
    import ray  # noqa: PLC0415  an extra brings it
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  the same

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()


def _consume(dataset: Any, results: "queue.Queue[Facts | BaseException | None]", stopping: threading.Event) -> None:  # noqa: ANN401
    """Wait for Ray Data in a thread of its own, since it cannot be asked to wait for a moment only."""
    try:
        for row in dataset.iter_rows():
            results.put(Facts(**json.loads(row["facts"])))
            if stopping.is_set():
                break
        results.put(None)
    except BaseException as error:  # noqa: BLE001  it is raised again in the thread that waits
        results.put(error)


def _translate(error: BaseException) -> BaseException:
    """Tell in one sentence what Ray tells in a page."""
    import ray.exceptions  # noqa: PLC0415  an extra brings it

    if os.environ.get(DEBUG):
        return error
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ModuleNotFoundError) or "ModuleNotFoundError" in str(error):
        return CaptError("Nodes of the Ray cluster lack capt, or have another version of it; install capt[ray] on all of them.")
    if isinstance(error, ray.exceptions.RayError):
        what = f"{type(cause).__name__}: {first_line(cause)}"
        return CaptError(f"Ray could not go on ({what}); what is finished is kept, start the same command again.")
    return error


def _count_finished(task: Task, told: set[int]) -> int:
    """Count the images of finished shards; when a run is interrupted, some are written that nobody could tell of any more."""
    return sum(
        len(work.rows)
        for number, work in enumerate(task.works)
        if number in told or (work.is_whole and (task.folder / shard_name(work.shard.number)).exists())
    )


def _tell(narrator: Narrator, work: Work, facts: Facts) -> None:
    failed = [Failure(image_id=image_id, kind=kind, sentence=sentence) for image_id, kind, sentence in facts.failed]
    narrator.count(facts.captioned, [(image_id, caption) for image_id, caption in facts.samples], failed)
    kinds = Counter(failure.kind for failure in failed)
    narrator.tell(ShardWritten(number=work.shard.number, rows=facts.captioned, failed=kinds, seconds=facts.took))


def _clear_up(task: Task, sign: str) -> None:
    """Remove what workers that were killed have half written."""
    own = {shard_name(work.shard.number) for work in task.works}
    with suppress(OSError):
        (task.folder / sign).unlink(missing_ok=True)
        halves = task.folder.glob("*.parquet.*.tmp") if isinstance(task.folder, Path) else ()
        for path in halves:
            if path.name.partition(".parquet.")[0] + ".parquet" in own:
                path.unlink(missing_ok=True)
