"""How many threads of torch compute what a thread of ours asks for."""

from __future__ import annotations

import torch


def compute_with(num_threads: int) -> None:
    """Of the calling thread, from now on.

    Torch keeps a count for each thread, but a thread that has not computed yet takes the one that was set
    last, by whomever. Asking for it settles it.
    """
    torch.set_num_threads(num_threads)
    torch.get_num_threads()
