"""Tests of jobs.ray_engine and jobs.ray_cluster: the table of one machine, made by actors on a real cluster whose nodes die."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.options
import jobs.ray_cluster
import jobs.ray_engine
from capt.captions import RUN_FILE, read_captions, shard_paths
from capt.errors import CaptError, InputError, OutputError
from jobs.options import EngineOptions, NetworkOptions, OutputOptions, RunOptions
from jobs.plan import prepare
from jobs.ray_cluster import Crew, plan_crew
from jobs.source import SourceOptions
from tests.running import Ended, Job, Started, call, carry_out, change, do, wait_for_shards

SHARDS = 16
TOKEN = "0123456789abcdef" * 2


class Machines:
    """A cluster whose head, where the tests are, has no processors, and whose other nodes have one each."""

    def __init__(self) -> None:
        """Start the head alone."""
        cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: nox -s ray")
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 << 20}
        self._cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        self.address = str(self._cluster.address)

    def add(self, count: int) -> None:
        """Start further nodes, until there are so many."""
        while len(self._nodes) < count:
            self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=100 << 20))

    def kill_one_at_work(self) -> None:
        """Kill a node whose processor an actor has; called while the driver is connected."""
        from ray._private.state import available_resources_per_node  # noqa: PLC0415  Ray may not be there

        free = available_resources_per_node()
        victim = next(node for node in self._nodes if not free[node.node_id].get("CPU"))
        self._nodes.remove(victim)
        self._cluster.remove_node(victim, allow_graceful=False)

    def end(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """Give a cluster; the key to it is not the user's own, which Ray would make in the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**jobs.ray_cluster._SETTINGS, "RAY_AUTH_TOKEN": TOKEN}.items():
            patch.setenv(name, value)
        cluster = Machines()
        yield cluster
        cluster.end()


def on_ray(machines: Machines, options: RunOptions, actors: int = 1) -> RunOptions:
    """Choose the cluster for a run."""
    machines.add(actors)
    return change(options, engine="ray", ray_address=machines.address, actors=actors)


def test_a_node_that_dies_changes_nothing(  # noqa: PLR0913, PLR0917  fixtures
    machines: Machines,
    job: Job,
    undisturbed: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A node is killed while an actor there captions: its shard is done elsewhere, and the table is that of one machine."""
    machines.add(3)
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while len(shard_paths(tmp_path / "out")) < 3:
            if over.wait(0.01):
                return
        machines.kill_one_at_work()
        killed.append(len(shard_paths(tmp_path / "out")))

    thread = threading.Thread(target=kill)
    thread.start()
    engine = ["--engine", "ray", "--ray-address", machines.address, "--actors", "2"]
    ended = Ended(*call([*job.arguments(tmp_path / "out"), *engine], monkeypatch, capsys))
    over.set()
    thread.join()
    assert ended.code == 0, ended.err
    assert killed[0] < SHARDS
    assert ended.out == ""
    assert "64 images in" in ended.err
    assert "ray" not in ended.err.lower().replace("the ray cluster has", "")
    assert read_captions(tmp_path / "out").equals(undisturbed)
    assert len(list((tmp_path / "out").iterdir())) == SHARDS + 1


def test_an_interrupted_run_goes_on_anywhere(machines: Machines, job: Job, undisturbed: pa.Table, tmp_path: Path) -> None:
    """Ctrl-C ends a run on Ray with 130 and says how to go on; one machine completes it to the same table."""
    machines.add(2)
    command = Job(job._source, job.checkpoint)
    arguments = command.arguments
    command.arguments = lambda output: [*arguments(output), "--engine", "ray", "--ray-address", machines.address]  # type: ignore[method-assign]  # more options
    process = command.begin(tmp_path / "out")
    wait_for_shards(process, tmp_path / "out", 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "images are done and kept, go on with: capt-batch run" in err
    assert len(shard_paths(tmp_path / "out")) < SHARDS
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert job.complete(tmp_path / "out").equals(undisturbed)


def test_one_file_is_mended(machines: Machines, options: RunOptions, photos: Path, tmp_path: Path) -> None:
    """A manifest becomes one .parquet file on Ray, and its failed row is captioned there later; a local run gives the same."""
    paths = [str(path) for path in sorted(photos.iterdir())]
    later = tmp_path / "later.jpg"
    pq.write_table(pa.table({"image_path": [*paths, str(later)], "n": list(range(9))}), tmp_path / "m.parquet", row_group_size=2)
    options = change(options, source=str(tmp_path / "m.parquet"), allow_outside=True, path=tmp_path / "out.parquet")
    there = on_ray(machines, options)
    assert do(there).failed == 1
    later.write_bytes(Path(paths[0]).read_bytes())
    assert do(change(there, retry_failed=True)).failed == 0
    assert do(change(options, path=tmp_path / "here.parquet")).failed == 0
    assert read_captions(tmp_path / "out.parquet").equals(read_captions(tmp_path / "here.parquet"))
    assert not list(tmp_path.glob(".*"))


def test_errors_of_actors_reach_the_user(machines: Machines, start: Started, photos: Path, tmp_path: Path) -> None:
    """What the network refuses on a node is one sentence and exit code 2, before anything is written."""
    machines.add(1)
    ray = ["--engine", "ray", "--ray-address", machines.address]
    ended = start(photos, "-o", tmp_path / "out", "--alternatives", "5", *ray)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("capt-batch: --alternatives")
    assert not (tmp_path / "out").exists()


def test_errors_during_work_reach_the_user(machines: Machines, options: RunOptions, photos: Path, tmp_path: Path) -> None:
    """A manifest that vanishes while actors read it ends the run with their sentence, marked as during work."""
    manifest = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image_path": [str(path) for path in sorted(photos.iterdir())]}), manifest)
    plan = prepare(on_ray(machines, change(options, source=str(manifest), image_root=photos)))
    manifest.unlink()
    with pytest.raises(CaptError, match=r"m\.parquet cannot be read") as caught:
        carry_out(plan)
    assert caught.value.during_work
    assert not (tmp_path / "out" / RUN_FILE).exists()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("os._exit(1)", r"3 workers ended while they did captions-00001\.parquet, .* start the same command again\."),
        ("1 / 0", r"An unforeseen error ended this \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_shards_that_cannot_be_done(machines: Machines, options: RunOptions, fault: str, sentence: str) -> None:
    """A shard that brings its worker down, three times, or meets an error nobody foresaw, ends the run; the others are kept."""

    class Deadly:
        """A source that fails within its second shard; pickled with its code, since no node has it."""

        def __init__(self, source: Any, fault: str) -> None:  # noqa: ANN401  any source
            self.source, self.fault = source, fault
            self.travelling = source.travelling

        def batches(self, rows: Sequence[int], size: int) -> Iterator[Any]:
            import os  # noqa: F401, PLC0415  for the fault

            if rows[0] == 3:
                exec(self.fault)  # noqa: S102  given above
            yield from self.source.batches(rows, size)

    plan = prepare(on_ray(machines, options))
    plan = replace(plan, source=Deadly(plan.source, fault))  # type: ignore[arg-type]  # as much of a source as actors need
    with pytest.raises(CaptError, match=sentence) as caught:
        carry_out(plan)
    assert caught.value.during_work
    assert 1 not in shard_paths(plan.output.folder)
    assert do(options).failed == 0


OWN_CLUSTER = """
import signal
from jobs.ray_cluster import alive_nodes, connected
before = signal.getsignal(signal.SIGTERM)
with connected("local"):
    import ray
    print(ray.nodes()[0]["NodeManagerAddress"], len(alive_nodes()), signal.getsignal(signal.SIGTERM) == before)
print(ray.is_initialized())
"""


def test_a_cluster_of_its_own_hears_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no cluster is named, one is started that other machines cannot reach; it ends with the run, and signals stay ours."""
    pytest.importorskip("ray", reason="Ray is not installed: nox -s ray")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    program = [sys.executable, "-c", OWN_CLUSTER]  # what Ray reads when it is imported, it reads once a process
    ended = subprocess.run(program, capture_output=True, text=True, check=True, timeout=200)
    assert ended.stdout.split() == ["127.0.0.1", "1", "True", "False"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "[::1]:1", "127.0.0.1:99999"])
def test_clusters_that_do_not_answer(address: str) -> None:
    """An address at which nobody listens is refused at once, in one sentence."""
    with pytest.raises(InputError, match=f"No Ray cluster answers at .*{address[-1]}; give the HOST:PORT"):
        jobs.ray_cluster._find_cluster(address)


def test_which_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Named, from RAY_ADDRESS, running here, or none: in this order; what is left of one that ended is no cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(jobs.ray_cluster, "_answers", lambda address: bool(address) and not address.startswith("gone"))
    assert jobs.ray_cluster._find_cluster(None) is None
    with pytest.raises(InputError, match="No Ray cluster runs on this machine; start it with ray start"):
        jobs.ray_cluster._find_cluster("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("gone:1")
    assert jobs.ray_cluster._find_cluster(None) is None
    (tmp_path / "ray" / "ray_current_cluster").write_text("here:1\n")
    assert jobs.ray_cluster._find_cluster(None) == jobs.ray_cluster._find_cluster("auto") == "here:1"
    monkeypatch.setenv("RAY_ADDRESS", "there:2")
    assert jobs.ray_cluster._find_cluster(None) == "there:2"
    assert jobs.ray_cluster._find_cluster("local") is None
    assert jobs.ray_cluster._find_cluster("named:3") == "named:3"


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ray count as installed: what is tested needs none of it."""
    monkeypatch.setattr(jobs.options, "find_spec", lambda _: True)


def asked(*, device: str = "auto", workers: int = 8, actors: int | None = None, gpus: float | None = None) -> RunOptions:
    """Give options of a run on Ray."""
    return RunOptions(
        source=SourceOptions(source="photos"),
        network=NetworkOptions(device=device, workers=workers),
        decoding={},
        output=OutputOptions(path=Path("out")),
        engine=EngineOptions(engine="ray", actors=actors, gpus_per_actor=gpus),
    )


@pytest.mark.usefixtures("_installed")
def test_crews() -> None:
    """An actor for each GPU, or for as many processors as it uses; never more than shards, or as many as were asked for."""
    head, small, large = {"CPU": 0.0}, {"CPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}
    assert plan_crew(asked(), [head, small, small], 99) == Crew(actors=2, processors=4, gpus=0, device="cpu")
    assert plan_crew(asked(workers=2), [head, small, small], 99) == Crew(actors=4, processors=2, gpus=0, device="cpu")
    assert plan_crew(asked(), [small, large, large], 99) == Crew(actors=8, processors=4, gpus=1, device="cuda")
    assert plan_crew(asked(), [small, large, large], 3) == Crew(actors=3, processors=4, gpus=1, device="cuda")
    assert plan_crew(asked(gpus=0.5), [large], 99) == Crew(actors=8, processors=2, gpus=0.5, device="cuda")
    assert plan_crew(asked(gpus=0), [large], 99) == Crew(actors=2, processors=8, gpus=0, device="cpu")
    assert plan_crew(asked(device="cpu"), [large], 99) == Crew(actors=2, processors=8, gpus=0, device="cpu")
    assert plan_crew(asked(actors=5, device="cuda"), [head], 99) == Crew(actors=5, processors=8, gpus=1, device="cuda")
    with pytest.raises(InputError, match="No node of the Ray cluster has a GPU and a processor for an actor"):
        plan_crew(asked(device="cuda"), [head, small], 99)
    with pytest.raises(InputError, match="has a processor for an actor"):
        plan_crew(asked(), [head], 99)


@pytest.mark.usefixtures("_installed")
def test_contradictions_are_refused() -> None:
    """What Ray's actors cannot do, and options of Ray without Ray, are refused with what to give instead."""
    refused = {
        "give local or ray": {"engine": "spark"},
        "give --engine ray with them": {"actors": 2},
        "--actors must be at least 1": {"engine": "ray", "actors": 0},
        "from 0 to 1": {"engine": "ray", "gpus_per_actor": 2.0},
        "with --ray-address auto": {"engine": "ray", "ray_address": "ray://head:10001"},
    }
    for sentence, values in refused.items():
        with pytest.raises(InputError, match=sentence):
            EngineOptions(**values)  # type: ignore[arg-type]  # of the fields' types
    with pytest.raises(InputError, match="give --device cuda, not cuda:1"):
        asked(device="cuda:1")
    for device, gpus in (("cuda", 0.0), ("cpu", 1.0)):
        with pytest.raises(InputError, match=f"--gpus-per-actor {gpus:g} contradicts --device {device}"):
            asked(device=device, gpus=gpus)


def test_without_ray(start: Started, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is not installed, one sentence says how it is, before any work."""
    monkeypatch.setattr(jobs.options, "find_spec", lambda _: None)
    ended = start(photos, "-o", tmp_path / "out", "--engine", "ray")
    assert (ended.code, ended.err) == (2, "capt-batch: Ray is not installed; install it with: pip install 'capt[ray]'.")
    assert not (tmp_path / "out").exists()


def test_a_node_that_does_not_see_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without the driver's sign in the output's folder, or without the folder, is refused by its name."""
    monkeypatch.setattr(jobs.ray_engine, "_VISIBLE_AFTER", 0.0)
    (tmp_path / "sign").touch()
    jobs.ray_engine._see(tmp_path, "sign")
    for folder, sign in ((tmp_path, "another"), (tmp_path / "gone", "sign")):
        with pytest.raises(OutputError, match=r"does not see the folder .* in a folder that all nodes of the cluster share"):
            jobs.ray_engine._see(folder, sign)


def test_nodes_that_differ(options: RunOptions) -> None:
    """An actor that came to another precision or device than decided is refused; other versions are not."""
    decided = prepare(options).fingerprint
    jobs.ray_engine._check_same(replace(decided, versions={}), decided)
    for other, sentence in ((replace(decided, precision="float16"), "float16"), (replace(decided, device="cuda"), "cuda")):
        with pytest.raises(CaptError, match=rf"would caption differently .* is {sentence} and not"):
            jobs.ray_engine._check_same(other, decided)
