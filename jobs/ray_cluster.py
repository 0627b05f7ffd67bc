"""A Ray cluster: which one, how many actors fit into it, and how to be connected to it in silence.

In: what the user named. Out: a connection, and a crew. Apart from the engine, because nothing here knows of shards and captions.
"""

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

from capt.errors import InputError, first_line
from jobs.options import AUTO, RunOptions

_CONNECTING = 5.0  # seconds
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to Ray's makers
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread of Ray's that outlives the connection starts no cluster of its own
}
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray's switch for clusters of one machine, whatever its name says


@dataclass(frozen=True, kw_only=True)
class Crew:
    """How many actors there are, and what each has: processors, a share of a GPU, a device."""

    actors: int
    processors: int
    gpus: float
    device: str


def plan_crew(options: RunOptions, nodes: Sequence[Mapping[str, float]], works: int) -> Crew:
    """Decide how many actors there are and what each has.

    Args:
        options: What the user asked for.
        nodes: The resources of each node, such as CPU and GPU.
        works: How many there are to do.

    Returns:
        As many actors as fit, unless the user said how many.

    Raises:
        InputError: If none fits and the user did not say how many.
    """
    device, gpus = options.network.device, options.engine.gpus_per_actor
    if gpus is None:
        gpus = 1.0 if device == "cuda" or (device == AUTO and any(node.get("GPU", 0) for node in nodes)) else 0.0
    beside = [_beside(node, gpus) for node in nodes]
    fitting = [int(node.get("CPU", 0) / most) for node, most in zip(nodes, beside, strict=True) if most]
    processors = max(1, min([options.network.workers, *fitting]))
    places = count_places(nodes, processors, gpus)
    if not places and options.engine.actors is None:
        what = "a GPU and a processor" if gpus else "a processor"
        message = (
            f"No node of the Ray cluster has {what} for an actor; start one that has, or give --actors if the cluster grows."
        )
        raise InputError(message)
    return Crew(
        actors=options.engine.actors or min(places, works),
        processors=processors,
        gpus=gpus,
        device="cuda" if gpus else "cpu" if device == AUTO else device,
    )


def _beside(node: Mapping[str, float], gpus: float) -> int:
    """Count how many actors want to be beside each other on a node; each can have as much of its processors."""
    return int(node.get("GPU", 0) / gpus) if gpus else int(node.get("CPU", 0) >= 1)


def count_places(nodes: Sequence[Mapping[str, float]], processors: int, gpus: float) -> int:
    """Count how many actors fit.

    Args:
        nodes: The resources of each node.
        processors: Of each actor.
        gpus: Of each actor.

    Returns:
        How many, on all nodes together.
    """
    places = 0
    for node in nodes:
        by_processors = int(node.get("CPU", 0) / processors)
        places += min(by_processors, int(node.get("GPU", 0) / gpus)) if gpus else by_processors
    return places


def alive_nodes() -> list[Mapping[str, float]]:
    """Look at the cluster.

    Returns:
        The resources of each node that is alive.
    """
    import ray  # noqa: PLC0415  an extra brings it

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def connected(wanted: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one; in the end it is left, or ended if it was started here.

    Args:
        wanted: Its address, `auto` or `local`; None takes what RAY_ADDRESS says, what runs here, or a new one.

    Yields:
        Nothing.

    Raises:
        InputError: If there is no such cluster.
    """
    address = _find_cluster(wanted)
    with _environment(_SETTINGS if address is not None else {**_SETTINGS, **_LOOPBACK_ONLY}):
        import ray  # noqa: PLC0415  an extra brings it, and it reads the environment

        how: dict[str, object] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address is None else {}
        with _handlers_kept():
            try:
                ray.init(address=address or "local", log_to_driver=False, **how)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                message = f"The Ray cluster {wanted or address or 'of this machine'} cannot be used ({first_line(error)})."
                raise InputError(message) from error
    try:
        yield
    finally:
        with _handlers_kept():
            ray.shutdown()


def _find_cluster(wanted: str | None) -> str | None:
    """Find the address of the cluster to use; None when one is to be started.

    Ray itself waits for ten minutes until it believes that nobody answers.
    """
    running = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108  Ray's own place
    address = wanted or os.environ.get("RAY_ADDRESS") or AUTO
    if address == "local":
        return None
    if address == AUTO:
        address = running.read_text(encoding="utf-8").strip() if running.exists() else ""
        if not _answers(address):
            if wanted is None and not os.environ.get("RAY_ADDRESS"):
                return None
            message = "No Ray cluster runs on this machine; start it with ray start, or name its --ray-address HOST:PORT."
            raise InputError(message)
    elif not _answers(address):
        message = f"No Ray cluster answers at {address}; give the HOST:PORT that ray start has printed, or --ray-address local."
        raise InputError(message)
    return address


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECTING):
            return True
    except (OSError, OverflowError):
        return False


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep our own handlers of signals: Ray puts one of its own for SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def muted() -> Iterator[None]:
    """Keep off the terminal what Ray logs, prints, and writes past Python; what matters becomes one sentence of ours.

    Yields:
        Nothing.
    """
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stack.enter_context(redirect_stdout(nowhere))
        native = os.dup(2)
        stack.callback(os.close, native)
        error = sys.stderr
        with suppress(OSError, ValueError, AttributeError):
            if error.fileno() == 2:  # noqa: PLR2004  of every process
                sys.stderr = stack.enter_context(os.fdopen(os.dup(native), "w", buffering=1, encoding=error.encoding))
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(native, 2)
            sys.stderr.flush()
            sys.stderr = error
            logging.disable(level)
