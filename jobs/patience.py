"""A few threads that do tasks in the order given, and that can be given up when a task does not end.

In: tasks. Out: a future of each. Apart from the loader, and instead of Python's own pool, because that one waits for its threads
when the program ends, and a thread that waits for a file system that stalls may wait for ever.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")
_Task = tuple[Future[Result], Callable[[], Result]]


class PatientPool(Generic[Result]):
    """Threads that the program never waits for long; one whose task takes too long is given up and replaced."""

    def __init__(self, workers: int, *, name: str) -> None:
        """Start the threads.

        Args:
            workers: How many tasks are done at a time.
            name: Of the threads.
        """
        self._name = name
        self._tasks: queue.SimpleQueue[_Task[Result] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy: dict[threading.Thread, tuple[Future[Result], float]] = {}
        self._workers: set[threading.Thread] = set()
        self._stalled: set[threading.Thread] = set()
        self._is_closed = False
        for _ in range(workers):
            self._add_worker()

    @property
    def stalled(self) -> int:
        """How many threads were given up and have not come back."""
        with self._lock:
            return len(self._stalled)

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Let a task be done.

        Args:
            task: Called in a thread, unless the pool is closed before.

        Returns:
            What comes of it; a TimeoutError once its thread was given up.
        """
        future: Future[Result] = Future()
        self._tasks.put((future, task))
        return future

    def give_up(self, timeout: float) -> None:
        """Give up each thread whose task began too long ago, and begin another in its place.

        Args:
            timeout: Seconds that a task may take, not counting those that it waited for a thread.
        """
        began_after = time.monotonic() - timeout
        with self._lock:
            late = [thread for thread, (_, begun) in self._busy.items() if begun < began_after]
            for thread in late:
                future, _ = self._busy.pop(thread)
                self._workers.discard(thread)
                self._stalled.add(thread)
                future.set_exception(TimeoutError())
                self._add_worker()

    def close(self, *, grace: float) -> None:
        """End all threads; tasks not begun are left, and threads that go on are waited for only so long.

        Args:
            grace: Seconds; those threads end with the program at the latest.
        """
        with self._lock:
            self._is_closed = True
            workers = list(self._workers)
        for _ in workers:
            self._tasks.put(None)
        deadline = time.monotonic() + grace
        for thread in workers:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _add_worker(self) -> None:
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._workers.add(thread)
        thread.start()

    def _work(self) -> None:
        this = threading.current_thread()
        while (task := self._tasks.get()) is not None and not self._is_closed:
            future, call = task
            with self._lock:
                self._busy[this] = (future, time.monotonic())
            result, error = _outcome(call)
            with self._lock:
                if this in self._stalled:  # too late: another has this one's place
                    self._stalled.discard(this)
                    return
                del self._busy[this]
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # there is a result where there is no error


def _outcome(call: Callable[[], Result]) -> tuple[Result | None, BaseException | None]:
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001  it is raised again where the result is asked for
        return None, error
