from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from inference.kernels.threads import set_num_threads


def test_a_threads_count_is_independent_of_other_threads() -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(set_num_threads, 3).result()
        other.submit(set_num_threads, 2).result()
        counts = [thread.submit(torch.get_num_threads).result() for thread in (one, other)]
    assert [*counts, torch.get_num_threads()] == [3, 2, before]
