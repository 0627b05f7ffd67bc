"""Freed memory is kept: proven by the page faults of a process that makes and frees the same tensors again and again."""

import os
import subprocess
import sys

import pytest

from jobs.allocation import keep_freed_memory

_FAULTS = """
import os, resource, sys, threading
import torch
from capt.encoder import EncoderConfig, build_encoder
from jobs.allocation import keep_freed_memory

os.cpu_count = lambda: 2  # so that there is one heap
if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
encoder = build_encoder(EncoderConfig(name="efficientnet_lite0")).eval()
images = torch.zeros(2, 3, 224, 224)

def work():
    with torch.inference_mode():
        for _ in range(10):
            encoder(images)

def in_thread():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

go = in_thread if sys.argv[2] == "thread" else work
go()  # until the heap is as large as it gets
before = faults()
go()
print(faults() - before)
"""


def _is_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, AttributeError):
        return False


glibc = pytest.mark.skipif(not _is_glibc(), reason="The C library is not glibc.")


def _count_faults(kept: str, where: str) -> int:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _FAULTS, kept, where]
    return int(subprocess.run(command, env=plain, check=True, capture_output=True, text=True).stdout)


@glibc
@pytest.mark.parametrize("where", ["main", "thread"])
def test_memory_that_is_freed_is_not_fetched_again(where: str) -> None:
    """Encoding the same images again costs a fault for most pages of its results as glibc comes; kept, for hardly any."""
    assert _count_faults("kept", where) < _count_faults("as it comes", where) / 3


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_tunes_glibc_is_not_overruled(name: str) -> None:
    """A process whose environment tunes the allocator stays as it is."""
    assert not keep_freed_memory({name: "1"})
