"""How threads wait for each other."""

import os
import subprocess
import sys

import pytest

from jobs.threads import wait_briefly

_SPINS = """
import jobs.training.cli, typer, sys
from typer.testing import CliRunner
assert "torch" not in sys.modules
app = typer.Typer()
app.command()(jobs.training.cli.train)
CliRunner().invoke(app, ["nowhere", "--output", "nowhere-else"])
assert "torch" in sys.modules
import ctypes
libraries = [line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line]
print(bool(libraries), __import__("os").environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize("chosen", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_whoever_has_chosen_how_threads_wait_is_heard(chosen: str) -> None:
    """Nothing is changed where one of the two variables is there."""
    environment = {chosen: "active"}
    wait_briefly(environment)
    assert environment == {chosen: "active"}


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is what torch has on Linux")
def test_the_command_that_trains_chooses_before_torch_is_there() -> None:
    """GNU OpenMP reads the variable when it is loaded, with torch: it must be set by then."""
    environment = {name: value for name, value in os.environ.items() if name not in {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}}
    told = subprocess.run([sys.executable, "-c", _SPINS], env=environment, capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True", "3000"]
