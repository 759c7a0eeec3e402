"""Discrete-event simulation of N replicas that serve one stream of requests."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from backend.engine.routing import LOAD_FACTOR, place, ranked
from benchmarks.scale.costs import BATCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.scale.costs import ReplicaCosts
    from benchmarks.scale.traffic import Arrival

STEP_TOKENS = 512
"""Most prompt tokens of a step."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """`policy`: "affinity" is the router of `backend.engine.routing`, "round robin" its baseline. Requests
    come to `num_routers` API processes in turn, and each counts only its own requests as load of a replica.
    """

    num_replicas: int
    costs: ReplicaCosts
    prompt_tokens: int
    policy: Literal["affinity", "round robin"] = "affinity"
    load_factor: float = LOAD_FACTOR
    num_routers: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run measured after its warm-up. Times in milliseconds."""

    num_requests: int
    batch: float
    """Mean number of requests that a step gives a token."""
    ttft_p50: float
    ttft_p99: float
    hit_rate: float
    imbalance: float
    """Requests of the busiest replica over the mean."""


@dataclass(slots=True)
class _Waiting:
    arrival: Arrival
    router: int
    ready_at: float


@dataclass(slots=True)
class _Replica:
    """One engine: steps follow each other while it has requests; each gives every running request a token."""

    costs: ReplicaCosts
    prompt_tokens: int
    steps: int = 0
    num_tokens: int = 0
    num_requests: int = 0
    num_hits: int = 0
    is_stepping: bool = False
    debt_ms: float = 0.0
    waiting: deque[_Waiting] = field(default_factory=deque)
    running: list[tuple[int, int, int]] = field(default_factory=list)  # (last step, adapter, router)
    loads: Counter[int] = field(default_factory=Counter)  # requests by router
    adapters: Counter[int] = field(default_factory=Counter)
    resident: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.running)

    def preload(self, adapter: int) -> None:
        """Hold an adapter from the start; the most popular one comes first, and is evicted last."""
        if len(self.resident) < self.costs.resident_adapters:
            self.resident[adapter] = None
            self.resident.move_to_end(adapter, last=False)

    def submit(self, arrival: Arrival, router: int) -> None:
        self.num_requests += 1
        self.loads[router] += 1
        ready_at = arrival.at
        if arrival.adapter in self.resident:
            self.num_hits += 1
            self.resident.move_to_end(arrival.adapter)
        else:
            ready_at += self.costs.load_wait_ms / 1e3
            self.debt_ms += self.costs.load_cpu_ms
            self.resident[arrival.adapter] = None
            if len(self.resident) > self.costs.resident_adapters:
                self.resident.popitem(last=False)
        self.waiting.append(_Waiting(arrival, router, ready_at))

    def step(self, now: float) -> tuple[float, list[Arrival]]:
        """Begin a step. Returns when it ends, and the requests whose first token it computes."""
        first = self._admit(now)
        milliseconds = self.costs.step(len(self.running), len(self.adapters)) + self.debt_ms
        milliseconds += len(first) * self.prompt_tokens * self.costs.prompt_token_ms
        self.debt_ms = 0.0
        self.num_tokens += len(self.running)
        self.steps += 1
        return now + milliseconds / 1e3, first

    def finish(self) -> None:
        """Remove the requests whose last token the step has computed."""
        while self.running and self.running[0][0] <= self.steps:
            _, adapter, router = heapq.heappop(self.running)
            self.loads[router] -= 1
            self.adapters[adapter] -= 1
            if not self.adapters[adapter]:
                del self.adapters[adapter]

    def _admit(self, now: float) -> list[Arrival]:
        admitted: list[Arrival] = []
        delayed: list[_Waiting] = []
        room = STEP_TOKENS // self.prompt_tokens
        while self.waiting and len(self.running) < BATCH and len(admitted) < room:
            next_one = self.waiting.popleft()
            if next_one.ready_at > now:
                delayed.append(next_one)
                continue
            arrival = next_one.arrival
            last_step = self.steps + arrival.num_tokens
            heapq.heappush(self.running, (last_step, arrival.adapter, next_one.router))
            self.adapters[arrival.adapter] += 1
            admitted.append(arrival)
        self.waiting.extendleft(reversed(delayed))
        return admitted


class _Affinity:
    """The routers of the API processes."""

    def __init__(self, fleet: Fleet) -> None:
        self._names = [str(number) for number in range(fleet.num_replicas)]
        self._factor = fleet.load_factor
        self._orders: dict[int, list[int]] = {}

    def choose(self, adapter: int, router: int, replicas: Sequence[_Replica]) -> int:
        loads = {number: replica.loads[router] for number, replica in enumerate(replicas)}
        return place(self._order(adapter), loads, self._factor)

    def preload(self, popular: Iterable[int], replicas: Sequence[_Replica]) -> None:
        for adapter in popular:
            replicas[self._order(adapter)[0]].preload(adapter)

    def _order(self, adapter: int) -> list[int]:
        if adapter not in self._orders:
            self._orders[adapter] = list(map(int, ranked(str(adapter), self._names)))
        return self._orders[adapter]


class _RoundRobin:
    def __init__(self, fleet: Fleet) -> None:
        self._turns = itertools.cycle(range(fleet.num_replicas))

    def choose(self, adapter: int, router: int, replicas: Sequence[_Replica]) -> int:  # noqa: ARG002 - as above
        return next(self._turns)

    def preload(self, popular: Iterable[int], replicas: Sequence[_Replica]) -> None:
        for adapter in popular:
            for replica in replicas:
                replica.preload(adapter)


def simulate(
    fleet: Fleet, requests: Iterable[Arrival], popular: Iterable[int], seconds: float, warm_up: float
) -> Outcome:
    """Run `requests`, which arrive within `seconds`, and measure those after `warm_up`. `popular`: adapters
    that are there at the start, the most popular first.
    """
    replicas = [_Replica(fleet.costs, fleet.prompt_tokens) for _ in range(fleet.num_replicas)]
    policy = _Affinity(fleet) if fleet.policy == "affinity" else _RoundRobin(fleet)
    policy.preload(popular, replicas)
    routers = itertools.cycle(range(fleet.num_routers))
    ends: list[tuple[float, int]] = []
    waits: list[float] = []
    before = [_counts(replica) for replica in replicas]
    is_warm = False

    def begin(number: int, now: float) -> None:
        end, first = replicas[number].step(now)
        waits.extend((end - arrival.at) * 1e3 for arrival in first if arrival.at >= warm_up)
        heapq.heappush(ends, (end, number))
        replicas[number].is_stepping = True

    def run_until(limit: float) -> None:
        while ends and ends[0][0] <= limit:
            now, number = heapq.heappop(ends)
            replica = replicas[number]
            replica.finish()
            replica.is_stepping = False
            if not replica.is_idle:
                begin(number, now)

    for arrival in requests:
        run_until(arrival.at)
        if not is_warm and arrival.at >= warm_up:
            before = [_counts(replica) for replica in replicas]
            is_warm = True
        router = next(routers)
        number = policy.choose(arrival.adapter, router, replicas)
        replicas[number].submit(arrival, router)
        if not replicas[number].is_stepping:
            begin(number, arrival.at)
    run_until(seconds)
    return _outcome([_counts(replica) - then for replica, then in zip(replicas, before, strict=True)], waits)


def _counts(replica: _Replica) -> Counter[str]:
    names = ("steps", "num_tokens", "num_requests", "num_hits")
    return Counter({name: getattr(replica, name) for name in names})


def _outcome(counts: Sequence[Counter[str]], waits: Sequence[float]) -> Outcome:
    total: Counter[str] = sum(counts, Counter())
    ordered = sorted(waits)
    busiest = max(each["num_requests"] for each in counts)
    return Outcome(
        num_requests=total["num_requests"],
        batch=round(total["num_tokens"] / total["steps"], 1),
        ttft_p50=round(ordered[len(ordered) // 2], 1),
        ttft_p99=round(ordered[len(ordered) * 99 // 100], 1),
        hit_rate=round(total["num_hits"] / total["num_requests"], 3),
        imbalance=round(busiest * len(counts) / total["num_requests"], 2),
    )
