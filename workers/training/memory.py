"""Memory of the training process: its limit, and the error of a job that needs more. Loads no torch."""

from __future__ import annotations

import resource
from pathlib import Path

from backend.domain.errors import InvalidInput
from backend.processes.memory import machine_memory
from backend.processes.parent import is_out_of_memory

SHARE = 0.8
"""Of the machine's or container's memory. The rest is for what runs beside the one training process."""
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd")


class OutOfMemory(InvalidInput):
    """A job needs more memory than a worker gives it; the message says what to do."""


def memory_limit() -> int | None:
    """Bytes of private memory that a training process may have; None on a machine with a GPU, whose driver
    reserves address space that would count.
    """
    return None if any(Path(file).exists() for file in GPU_FILES) else int(SHARE * machine_memory())


def out_of_memory_error(
    error: BaseException, remedy: str = "lower max_length or rank, or train on fewer rows"
) -> OutOfMemory | None:
    """The error to report for a job that failed with `error`, with its `remedy`; None if it was not for lack
    of memory, or if something else limited the process further: another attempt may succeed then.
    """
    limit = memory_limit()
    in_force = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if not is_out_of_memory(error) or in_force != (resource.RLIM_INFINITY if limit is None else limit):
        return None
    given = "this worker has" if limit is None else f"the {limit / 1e9:.1f} GB that this worker gives a job"
    return OutOfMemory(f"the job needs more memory than {given}: {remedy}")
