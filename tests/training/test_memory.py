"""What is freed stays with the process, where the C library has that choice."""

import platform
import subprocess
import sys

import pytest

# A process of its own: the choice holds for a whole process.
PROGRAM = """
import resource, sys
import torch
from mudiff.memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
make = lambda: [torch.ones(n * 2**18) for n in (3, 40)]  # 3 and 40 MiB, as feature maps are
for _ in range(12):  # until the heap has found its size
    make()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    make()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(choice: str) -> int:
    program = [sys.executable, "-c", PROGRAM, choice]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the choice")
def test_freed_memory_is_not_asked_for_again():
    assert page_faults("kept") * 20 < page_faults("default")
