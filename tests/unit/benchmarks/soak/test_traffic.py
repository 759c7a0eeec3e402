"""The queue of requests."""

from __future__ import annotations

from collections import Counter

from benchmarks.soak.hostile import Hostile
from benchmarks.soak.traffic import Traffic
from inference.protocol import AdapterRef

ADAPTERS = [AdapterRef(f"{number:064x}", f"/{number}") for number in range(50)]
HOSTILE = [Hostile(AdapterRef("f" * 64, "/hostile"), "adapter_pickle")]


def test_traffic_mixes_adapters_base_hostile_and_abandoned_requests() -> None:
    traffic = Traffic(ADAPTERS, HOSTILE)
    drawn = [traffic.next() for _ in range(2_000)]
    used = Counter(one.command.adapter for one in drawn)
    assert len(used) == len(ADAPTERS) + 2  # the base model, and the hostile one
    assert used[ADAPTERS[0]] > used[ADAPTERS[9]] > 0
    assert 40 < used[HOSTILE[0].adapter] < 200
    assert all((one.expected_code is None) == (one.command.adapter != HOSTILE[0].adapter) for one in drawn)
    abandoned = [one for one in drawn if one.abort_after is not None]
    assert 100 < len(abandoned) < 300
    assert all(one.abort_after < one.command.sampling.max_tokens for one in abandoned if one.abort_after)


def test_traffic_repeats_for_a_seed() -> None:
    first, second = Traffic(ADAPTERS, HOSTILE), Traffic(ADAPTERS, HOSTILE)
    assert [first.next() for _ in range(50)] == [second.next() for _ in range(50)]


def test_bursts_want_more_than_the_engine_holds() -> None:
    traffic = Traffic(ADAPTERS, HOSTILE)
    wanted = {traffic.in_flight(float(second)) for second in range(10)}
    assert len(wanted) == 2
    assert max(wanted) > 128  # 32 running and 96 waiting
