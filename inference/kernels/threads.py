"""Sets the number of threads that torch computes with."""

from __future__ import annotations

import torch


def set_num_threads(num_threads: int) -> None:
    """Set the number for the calling thread.

    Torch keeps one number per thread, but a thread that has not computed yet uses the number that any thread
    set last. Reading the number fixes it for this thread.
    """
    torch.set_num_threads(num_threads)
    torch.get_num_threads()
