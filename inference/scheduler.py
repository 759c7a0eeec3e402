"""Continuous batching: which requests run how many tokens in the next step.

Decodes come first, then prefills in chunks, then new requests: those of a higher priority first, within one
class by fairness, see `inference.fair_queue`. When kv_blocks run out the youngest request is preempted and
recomputed later. Nothing here touches a tensor.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Protocol

from inference.fair_queue import ANSWER_WEIGHT, PROMPT_WEIGHT, FairQueue
from inference.lora.segments import BASE_SLOT
from inference.protocol import MAX_PRIORITY, MIN_PRIORITY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inference.block_manager import BlockManager
    from inference.line import Line
    from inference.protocol import AdapterBlend, AdapterRef
    from inference.request import Request

AGEING_SECONDS = 30.0
"""Who has waited this long in a priority class moves up into the next one."""
_AGEING_PERIOD_SECONDS = 1.0
_NUM_PREFETCHED = 16
"""Requests, the next ones in line, whose adapters are loaded while they wait."""


class SlotSource(Protocol):
    """Where adapters become active."""

    def prefetch(self, choice: AdapterRef | AdapterBlend) -> None:
        """Load the adapter, or all of a blend, unless it is on this host; keep it there until `forget`."""

    def is_ready(self, choice: AdapterRef | AdapterBlend) -> bool:
        """Whether nothing needs to be loaded, so that `acquire` can lack nothing but a slot."""

    def acquire(self, choice: AdapterRef | AdapterBlend) -> int | None:
        """Take a use of the slot of one that is ready; None while no slot is free."""

    def release(self, slot: int) -> None: ...

    def forget(self, digest: str) -> None:
        """No request waits for this adapter any more."""


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """`num_tokens` of the request's pending tokens are computed in this step."""

    request: Request
    num_tokens: int


@dataclass(slots=True)
class Step:
    scheduled: list[ScheduledRequest] = field(default_factory=list)
    fresh_blocks: list[int] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)  # scheduled too; they begin behind shared blocks

    @property
    def num_tokens(self) -> int:
        return sum(entry.num_tokens for entry in self.scheduled)


class Scheduler:
    """Owns every unfinished request."""

    def __init__(
        self,
        blocks: BlockManager,
        slots: SlotSource,
        line: Line,
        max_running: int,
        max_step_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`line` counts what waits; `clock`: seconds since whenever."""
        self._blocks = blocks
        self._slots = slots
        self._line = line
        self._max_running = max_running
        self._max_step_tokens = max_step_tokens
        self._clock = clock
        self._running: list[Request] = []
        self._preempted: list[Request] = []  # they wait too, before all others
        self._queues = {number: FairQueue() for number in range(MAX_PRIORITY, MIN_PRIORITY - 1, -1)}
        self._num_waiting_for: Counter[str | None] = Counter()
        self._next_ageing = 0.0
        self.num_preemptions = 0

    @property
    def running(self) -> list[Request]:
        return list(self._running)

    @property
    def num_waiting(self) -> int:
        return self._line.num_requests

    @property
    def waiting_digests(self) -> set[str]:
        return {digest for digest in self._num_waiting_for if digest is not None}

    def waiting(self) -> Iterator[Request]:
        return chain(self._preempted, *self._queues.values())

    def add(self, request: Request) -> None:
        request.waiting_since = request.arrived_at = self._clock()
        self._queues[request.priority].push(request)
        self._count_waiting(request, 1)

    def who_must_go_for(self, request: Request) -> Request | None:
        """While the line is full: the youngest of the payer who takes most of it, if that is more than
        `request`'s own would, and of no higher class. None: `request` itself.
        """
        payer = self._line.heaviest()
        if self._line.share(payer) <= self._line.share(request.payer, 1, request.num_tokens):
            return None
        candidates = (
            each
            for each in chain(*self._queues.values())
            if each.payer == payer and each.priority <= request.priority
        )
        return max(candidates, key=lambda each: (-each.priority, each.arrival), default=None)

    def schedule(self) -> Step:
        """Choose the next step and reserve its kv_blocks and slots; empty when nothing can run now."""
        step = Step()
        by_arrival = sorted(self._running, key=lambda request: (-request.priority, request.arrival))
        for request in sorted(by_arrival, key=lambda request: request.num_pending > 1):
            # An earlier turn of this loop may have preempted it.
            if request in self._running:
                self._continue(request, step)
        if self.num_waiting:
            self._age()
            self._admit(step)
            self._prefetch()
        return step

    def remove(self, request: Request) -> None:
        """Take out a finished or aborted request, wherever it is, and free what it holds."""
        if request in self._running:
            self._running.remove(request)
            self._free(request)
        else:
            self._stop_waiting(request)

    def check_integrity(self) -> None:
        """Compare the counts of what waits with what does. Raises `AssertionError`."""
        waiting = list(self.waiting())
        if Counter(request.adapter_digest for request in waiting) != self._num_waiting_for:
            raise AssertionError(f"waiting requests miscounted: {self._num_waiting_for}")
        counted = (self._line.num_requests, self._line.num_tokens)
        if counted != (len(waiting), sum(request.num_tokens for request in waiting)):
            raise AssertionError(f"requests and tokens in line miscounted: {counted}")
        if any(r.block_table or r.num_computed or r.slot != BASE_SLOT for r in waiting):
            raise AssertionError("a waiting request holds kv_blocks or a slot")

    def _continue(self, request: Request, step: Step) -> None:
        num_tokens = min(request.num_pending, self._max_step_tokens - step.num_tokens)
        if num_tokens == 0:
            return
        fresh = self._blocks.grow(request.block_table, request.num_computed + num_tokens)
        while fresh is None:
            victim = self._victim(step)
            self._preempt(victim)
            if victim is request:
                return
            fresh = self._blocks.grow(request.block_table, request.num_computed + num_tokens)
        step.fresh_blocks += fresh
        step.scheduled.append(ScheduledRequest(request, num_tokens))
        if num_tokens == request.num_pending and request.sampling is not None:
            self._queues[request.priority].charge(request, ANSWER_WEIGHT)

    def _victim(self, step: Step) -> Request:
        """Of those not yet scheduled, the youngest of the lowest class."""
        scheduled = {id(entry.request) for entry in step.scheduled}
        candidates = [request for request in self._running if id(request) not in scheduled]
        return max(candidates, key=lambda request: (-request.priority, request.arrival))

    def _preempt(self, request: Request) -> None:
        self._running.remove(request)
        self._free(request)
        request.num_computed = 0
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._preempted.append(request)
        self._preempted.sort(key=lambda request: request.arrival)
        self._count_waiting(request, 1)

    def _age(self) -> None:
        """Strict classes alone would let a steady stream of one starve those below."""
        now = self._clock()
        if now < self._next_ageing:
            return
        self._next_ageing = now + _AGEING_PERIOD_SECONDS
        for priority in range(MAX_PRIORITY - 1, MIN_PRIORITY - 1, -1):
            for request in list(self._queues[priority]):
                if now - request.waiting_since >= AGEING_SECONDS:
                    self._queues[priority].remove(request)
                    request.priority, request.waiting_since = priority + 1, now
                    self._queues[priority + 1].push(request)

    def _admit(self, step: Step) -> None:
        """Those whose adapters are still being loaded are passed over. Who lacks nothing but kv_blocks or a
        slot holds back all behind it: they would take what becomes free, again and again.
        """
        is_blocked = False
        while not is_blocked:
            if len(self._running) >= self._max_running or step.num_tokens >= self._max_step_tokens:
                return
            request = next((each for each in self._in_line() if self._is_ready(each)), None)
            is_blocked = request is None or not self._try_start(request, step)

    def _in_line(self) -> Iterator[Request]:
        yield from self._preempted
        for queue in self._queues.values():
            yield from chain(*queue.heads())

    def _is_ready(self, request: Request) -> bool:
        return request.adapter is None or self._slots.is_ready(request.adapter)

    def _prefetch(self) -> None:
        """In turns over the payers: one who waits for many adapters must not hold up another's only one."""
        turns = (zip_longest(*queue.heads()) for queue in self._queues.values())
        in_turn = (request for turn in chain(*turns) for request in turn if request is not None)
        for request in islice(chain(self._preempted, in_turn), _NUM_PREFETCHED):
            if request.adapter is not None:
                self._slots.prefetch(request.adapter)

    def _try_start(self, request: Request, step: Step) -> bool:
        num_blocks = request.num_sharable // self._blocks.block_size
        shared = self._blocks.find(request.block_names[:num_blocks])
        if not self._blocks.can_hold(shared, request.num_tokens + 1):
            return False
        slot = BASE_SLOT if request.adapter is None else self._slots.acquire(request.adapter)
        if slot is None:
            return False
        self._stop_waiting(request)
        self._start(request, slot, shared, step)
        return True

    def _start(self, request: Request, slot: int, shared: Sequence[int], step: Step) -> None:
        request.slot = slot
        self._blocks.share(request.block_table, shared)
        request.num_computed = len(shared) * self._blocks.block_size
        if request.num_preemptions == 0:
            request.num_cached_prompt_tokens = request.num_computed
            request.queue_seconds = self._clock() - request.arrived_at
            self._queues[request.priority].charge(request, PROMPT_WEIGHT * request.num_pending)
        self._running.append(request)
        step.admitted.append(request)
        self._continue(request, step)

    def _stop_waiting(self, request: Request) -> None:
        if request in self._preempted:
            self._preempted.remove(request)
        else:
            self._queues[request.priority].remove(request)
        self._count_waiting(request, -1)

    def _count_waiting(self, request: Request, change: int) -> None:
        digest = request.adapter_digest
        count = self._line.enter if change > 0 else self._line.leave
        count(request.payer, request.num_tokens)
        self._num_waiting_for[digest] += change
        if self._num_waiting_for[digest] == 0:
            del self._num_waiting_for[digest]
            if digest is not None:
                self._slots.forget(digest)

    def _free(self, request: Request) -> None:
        self._blocks.release(request.block_table)
        if request.slot != BASE_SLOT:
            self._slots.release(request.slot)
            request.slot = BASE_SLOT
