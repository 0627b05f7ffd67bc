"""Tests of jobs.interruption: the first signal asks, the second ends."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from jobs.interruption import Interruption


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:
    """Let Ctrl-C be heard: a job in the background, as tests may be, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_first_signal_asks() -> None:
    """Ctrl-C is remembered and nothing is raised; the handlers before are put back."""
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert not interruption.is_requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.is_requested()
        assert interruption.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) == before


def test_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second signal ends the process with 128 and its number."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with Interruption():
        os.kill(os.getpid(), signal.SIGTERM)
        assert codes == []
        os.kill(os.getpid(), signal.SIGTERM)
    assert codes == [143]


def test_other_threads_watch_nothing() -> None:
    """Outside the main thread, where Python allows no handlers, it does nothing."""
    seen: list[bool] = []

    def work() -> None:
        with Interruption() as interruption:
            seen.append(interruption.is_requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_signal_is_passed_on_afterwards() -> None:
    """Work that must not be cut in two is finished; then the signal does what it would have done. Without one nothing happens."""
    with Interruption() as interruption:
        pass
    interruption.pass_on()
    done = []
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        done.append("the rest")
    with pytest.raises(KeyboardInterrupt):
        interruption.pass_on()
    assert done
