"""How threads wait for each other: a little while at work, then asleep.

In: nothing. Out: a setting of this process, which counts only before torch is imported. Apart, because it is about the machine
and not about captions.

The threads that divide an operation among them wait for the slowest at its end. As it comes, GNU OpenMP lets them turn in a loop
for milliseconds meanwhile. A step of training has thousands of small operations; on a machine that has other work, such a loop
takes the core from the very thread that it waits for, and steps were seen to take forty times as long (benchmarks/RESULTS.md).

Source:
    libgomp's manual, 4.17 GOMP_SPINCOUNT.
"""

import os
from collections.abc import MutableMapping

_TURNS = "3000"  # some microseconds
_CHOSEN_BY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for others fall asleep soon, unless somebody has chosen how they wait.

    Args:
        environment: Of this process; is changed.
    """
    if not any(name in environment for name in _CHOSEN_BY):
        environment["GOMP_SPINCOUNT"] = _TURNS
