"""Compute on several cores at once by giving each a part of its own: lanes, threads that know one core each.

In: a function and the parts of a batch. Out: what it made of each, in order. Apart from the captioner, because it knows threads
and no networks.

The search for captions is thousands of small operations. Divided among threads, each of them ends with a wait for the slowest;
whole parts side by side never wait for each other, keep all cores busy while one part is encoded and another searched, and sum
in the same order whatever the number of cores.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_LEAST = 8  # images of a part: the search of fewer costs more for each

Part = TypeVar("Part")
Made = TypeVar("Made")


class Lanes:
    """Threads for parts of batches; with one lane there are none, and everything happens where it is asked for."""

    def __init__(self, count: int) -> None:
        """Start no thread yet.

        Args:
            count: How many parts are computed at the same time, each on one core; 1 leaves torch's threads as they are.
        """
        self.count = count
        self._pool = ThreadPoolExecutor(count, "lane", initializer=torch.set_num_threads, initargs=(1,)) if count > 1 else None

    def divide(self, images: int, *, least: int = _LEAST) -> list[slice]:
        """Divide a batch, evenly, into parts that are not too small.

        Args:
            images: How many there are; at least one.
            least: How many a part has at least, if there are that many.

        Returns:
            The parts, in order.
        """
        parts = max(1, min(self.count, images // least))
        bounds = [round(part * images / parts) for part in range(parts + 1)]
        return [slice(*bounds[part : part + 2]) for part in range(parts)]

    def batches_at_once(self, images: int) -> int:
        """Tell how many batches must be in work so that no lane waits for the next one.

        Args:
            images: Of a batch.

        Returns:
            How many; 1 where there is one lane.
        """
        return 1 if self.count == 1 else -(-self.count // len(self.divide(images))) + 1

    def each(self, function: Callable[[Part], Made], parts: Sequence[Part]) -> list[Made]:
        """Let the lanes make something of every part; several threads may ask at the same time.

        Args:
            function: Makes it.
            parts: Of what.

        Returns:
            What was made of each, in order.
        """
        return list(map(function, parts) if self._pool is None else self._pool.map(function, parts))
