from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from inference.threads import compute_with


def test_a_thread_keeps_its_count_whatever_another_one_sets() -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(compute_with, 3).result()
        other.submit(compute_with, 2).result()
        counts = [thread.submit(torch.get_num_threads).result() for thread in (one, other)]
    assert [*counts, torch.get_num_threads()] == [3, 2, before]
