"""Continuous batching: selects the requests of the next step and their numbers of tokens.

Decodes come first, then chunked prefills, then new requests: by priority, and within one class by fairness
(see `inference.scheduling.fair_queue` and `inference.scheduling.row_shares`). A prompt that is too long for
the step leaves half of its part to shorter ones (see `inference.scheduling.long_prompts`). When kv_blocks run
out, the latest request is preempted and recomputed later. No function here uses a tensor.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Protocol

from inference.lora.segments import BASE_SLOT
from inference.protocol import MAX_PRIORITY, MIN_PRIORITY
from inference.request import GenerationRequest
from inference.scheduling.fair_queue import PROMPT_WEIGHT, FairQueue
from inference.scheduling.long_prompts import may_join, repeats_work
from inference.scheduling.proposals import propose
from inference.scheduling.row_shares import RowShares
from inference.scheduling.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from inference.protocol import AdapterBlend, AdapterRef
    from inference.request import Request
    from inference.scheduling.block_manager import BlockManager
    from inference.scheduling.prefix_cache import PrefixCache
    from inference.scheduling.queue_limits import QueueLimits
    from inference.scheduling.step import StepLimits

AGEING_SECONDS = 30.0
"""A request joins the queue of the next priority class each time that it has waited this long."""
_AGEING_PERIOD_SECONDS = 1.0
PASSING_SECONDS = 10.0
"""For so long requests whose adapters are in use pass a request that lacks adapter rows."""
_NUM_PREFETCHED = 16
"""Number of requests at the front of the queue whose adapters are loaded while they wait."""
_MAX_REFUSED = 16
"""Number of requests that one step refuses."""


class SlotSource(Protocol):
    """Activates adapters in device slots."""

    def prefetch(self, adapter: AdapterRef | AdapterBlend) -> None:
        """Load the adapter, or all of a blend, into the host cache and pin it there until `unpin`."""

    def is_ready(self, adapter: AdapterRef | AdapterBlend) -> bool:
        """Whether `acquire` needs no load, only a slot."""

    def invocation(self, adapter: AdapterRef | AdapterBlend) -> Sequence[int]:
        """Tokens from which on an adapter that is ready is active; empty: it is always active."""

    def num_rows(self, adapter: AdapterRef | AdapterBlend) -> int:
        """Rows of an adapter that is ready, or more: exact for one that is active."""

    def acquire(self, adapter: AdapterRef | AdapterBlend) -> int | None:
        """Add a user to the slot of an adapter that is ready; None while no slot or too few rows are free."""

    def release(self, slot: int) -> None:
        """Remove a user from the slot."""

    def unpin(self, digest: str) -> None:
        """No request waits for this adapter any more."""


class Scheduler:
    """Holds all unfinished requests: running, preempted and waiting."""

    def __init__(
        self,
        blocks: BlockManager,
        slots: SlotSource,
        prefixes: PrefixCache,
        queue_limits: QueueLimits,
        limits: StepLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`queue_limits` counts the waiting requests, `limits` are those of each step. `prefixes` names the
        kv_blocks of a request's prompt once it is known where its adapter begins. `clock` returns monotonic
        seconds.
        """
        self._blocks = blocks
        self._slots = slots
        self._prefixes = prefixes
        self._queue_limits = queue_limits
        self._limits = limits
        self._clock = clock
        self._rows = RowShares(limits.num_adapter_rows, limits.max_running)
        self._running: list[Request] = []
        self._preempted: list[Request] = []  # wait in front of all others
        classes = range(MAX_PRIORITY, MIN_PRIORITY - 1, -1)
        self._queues = {priority: FairQueue(priority) for priority in classes}
        self._num_waiting_for: Counter[str | None] = Counter()
        self._next_ageing = 0.0
        self.num_preemptions = 0

    @property
    def running(self) -> list[Request]:
        return list(self._running)

    @property
    def num_waiting(self) -> int:
        return self._queue_limits.num_requests

    @property
    def waiting_digests(self) -> set[str]:
        return {digest for digest in self._num_waiting_for if digest is not None}

    def waiting(self) -> Iterator[Request]:
        return chain(self._preempted, *self._queues.values())

    def add(self, request: Request) -> None:
        request.arrived_at = self._clock()
        request.aged_priority = request.priority
        self._queues[request.priority].push(request)
        self._count_waiting(request, 1)

    def victims_for(self, request: Request) -> list[Request] | None:
        """The waiting requests to shed so that `request` fits into the queue: again and again the latest of
        the payer with the largest share, in the lowest class. None if that share is no larger than the share
        of `request`'s payer would be, or all its requests are of a higher class: then `request` is refused.
        """
        limits = self._queue_limits
        victims: dict[Request, None] = {}
        try:
            while not limits.has_room(request.num_tokens):
                victim = self._victim_for(request, victims)
                if victim is None:
                    return None
                victims[victim] = None
                limits.leave(victim.payer, victim.num_tokens)
        finally:
            for victim in victims:
                limits.enter(victim.payer, victim.num_tokens)
        return list(victims)

    def _victim_for(self, request: Request, others: Collection[Request]) -> Request | None:
        payer = self._queue_limits.heaviest_payer()
        if self._queue_limits.share(payer) <= self._queue_limits.share(request.payer, 1, request.num_tokens):
            return None
        candidates = (
            each
            for each in chain(*self._queues.values())
            if each.payer == payer and each.priority <= request.priority and each not in others
        )
        return max(candidates, key=lambda each: (-each.priority, each.arrival), default=None)

    def schedule(self) -> Step:
        """Select the next step and reserve its kv_blocks and slots; empty when nothing can run now."""
        step = Step()
        for request in sorted(self._running, key=lambda request: (-request.priority, request.arrival)):
            # An earlier iteration may have preempted it.
            if request.num_pending == 1 and request in self._running:
                self._continue(request, step)
        for request in list(self._running):  # in the order of their starts, so that none stops one before it
            if request.num_pending > 1 and request in self._running and may_join(request, step):
                self._continue(request, step)
        if self.num_waiting:
            self._age()
            self._admit(step)
            self._prefetch()
        step.fill(self._limits.max_tokens)
        propose(step, self._blocks, self._limits)
        return step

    def remove(self, request: Request) -> None:
        """Remove a finished or aborted request in any state, and free its kv_blocks and slot."""
        if request in self._running:
            self._running.remove(request)
            self._free(request)
        else:
            self._stop_waiting(request)

    def preempt(self, request: Request) -> None:
        """Return a running request to the front of the queue. It will be computed again."""
        self._running.remove(request)
        self._free(request)
        request.num_computed = 0
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._preempted.append(request)
        self._preempted.sort(key=lambda request: request.arrival)
        self._count_waiting(request, 1)

    def charge_answer_token(self, request: Request) -> None:
        """Count a sampled token as served to the request's payer and adapter."""
        self._charge(request, self._rows.cost(request))

    def check_integrity(self) -> None:
        """Compare the counters with the waiting requests. Raises `AssertionError`."""
        self._rows.check_integrity(self._running)
        waiting = list(self.waiting())
        if Counter(request.adapter_digest for request in waiting) != self._num_waiting_for:
            raise AssertionError(f"waiting requests miscounted: {self._num_waiting_for}")
        counted = (self._queue_limits.num_requests, self._queue_limits.num_tokens)
        if counted != (len(waiting), sum(request.num_tokens for request in waiting)):
            raise AssertionError(f"waiting requests and tokens miscounted: {counted}")
        if any(queue.has_own != any(True for _ in queue) for queue in self._queues.values()):
            raise AssertionError("requests of a class itself miscounted")
        if any(r.block_table or r.num_computed or r.slot != BASE_SLOT for r in waiting):
            raise AssertionError("a waiting request holds kv_blocks or a slot")

    def _continue(self, request: Request, step: Step) -> None:
        num_tokens = min(request.num_pending, self._limits.max_tokens - step.num_tokens)
        if num_tokens == 0:
            return
        # A prompt has the kv_blocks of all its tokens before shorter ones are computed next to it.
        while (fresh := self._blocks.grow(request.block_table, request.num_tokens)) is None:
            victim = self._preemption_victim(step)
            self.preempt(victim)
            if victim is request:
                return
        step.fresh_blocks += fresh
        step.schedule(request, num_tokens)
        if num_tokens == request.num_pending and isinstance(request, GenerationRequest):
            self.charge_answer_token(request)

    def _preemption_victim(self, step: Step) -> Request:
        """The latest request of the lowest class that is not scheduled yet."""
        scheduled = {id(entry.request) for entry in step.scheduled}
        candidates = [request for request in self._running if id(request) not in scheduled]
        return max(candidates, key=lambda request: (-request.priority, request.arrival))

    def _age(self) -> None:
        """Let long waits join the queue of the next class: a steady stream of one class would starve lower
        ones. They also stay in their own, which is in order without regard to age.
        """
        now = self._clock()
        if now < self._next_ageing:
            return
        self._next_ageing = now + _AGEING_PERIOD_SECONDS
        for priority in range(MIN_PRIORITY, MAX_PRIORITY):
            for request in self._queues[priority]:
                age = AGEING_SECONDS * (request.aged_priority + 1 - priority)
                if request.aged_priority < MAX_PRIORITY and now - request.arrived_at >= age:
                    request.aged_priority += 1
                    self._queues[request.aged_priority].push(request)

    def _admit(self, step: Step) -> None:
        """Start waiting requests in order. A request that lacks kv_blocks holds back all behind it, which
        would otherwise keep taking what it waits for; so does one that may not join a long prompt, because
        their payers have been served more. One that lacks rows or a slot holds back those of `_may_pass`.
        """
        lacking: Request | None = None
        while self._has_room(step):
            request = self._next(step, lacking)
            if request is None:
                return
            if not self._locate(request):
                self._refuse(request, step)
                continue
            names = request.block_names[: request.num_sharable // self._blocks.block_size]
            shared = self._blocks.find(names)
            if self._waits_for_long(request, names, len(shared), step):
                return
            if not self._blocks.can_hold(shared, request.num_tokens + 1):
                return
            slot = BASE_SLOT if request.adapter is None else self._slots.acquire(request.adapter)
            if slot is None:
                lacking = self._hold(request)
            else:
                self._start(request, slot, shared, step)

    def _waits_for_long(self, request: Request, names: Sequence[bytes], num_shared: int, step: Step) -> bool:
        """`names` are those of the kv_blocks that the request can share, of which `num_shared` are cached."""
        block_size = self._blocks.block_size
        if step.long is None:
            return False
        if not may_join(request, step, num_shared * block_size):
            return True
        return repeats_work(names, self._running, block_size)

    def _has_room(self, step: Step) -> bool:
        if len(self._running) >= self._limits.max_running or step.num_tokens >= self._limits.max_tokens:
            return False
        return len(step.refused) < _MAX_REFUSED  # each is looked for among all that wait

    def _next(self, step: Step, lacking: Request | None) -> Request | None:
        """The first request that may start. Skipped are requests whose adapters are still loading, and those
        held back by `lacking` or by a request of their payer that would exceed its share of the rows.
        """
        held: dict[str, Request] = {}  # by payer
        for request in self._candidates():
            if request in step.refused or not self._may_pass(request, lacking, held.get(request.payer)):
                continue
            if not self._is_ready(request):
                continue
            if not self._exceeds_share(request):
                return request
            held[request.payer] = self._hold(request)
            for queue in self._joined(request):
                queue.forfeit(request)
        return None

    def _hold(self, request: Request) -> Request:
        request.held_since = min(request.held_since, self._clock())
        return request

    def _may_pass(self, request: Request, *held: Request | None) -> bool:
        """Requests of the base model pass a held one, and for some time those whose adapters are in use: they
        take no rows.
        """
        if request.adapter is None:
            return True
        since = min((each.held_since for each in held if each is not None), default=None)
        if since is None:
            return True
        is_in_use = self._rows.is_in_use(request.adapter_digest)
        return is_in_use and self._clock() - since < PASSING_SECONDS

    def _exceeds_share(self, request: Request) -> bool:
        """Whether the request would take more rows than are its payer's part. One that was preempted keeps
        its part.
        """
        if request.adapter is None or request.num_preemptions or self._rows.is_in_use(request.adapter_digest):
            return False
        num_rows = self._slots.num_rows(request.adapter)
        return self._rows.exceeds(request.payer, num_rows, self._queue_limits.num_payers)

    def _candidates(self) -> Iterator[Request]:
        """Waiting requests that may start next, in order; those that have joined several queues repeatedly.

        A class in which only aged requests wait has no turn of its own: they would overtake the younger ones
        of other payers in their class.
        """
        yield from self._preempted
        for queue in self._queues.values():
            if queue.has_own:
                yield from chain(*queue.heads())

    def _is_ready(self, request: Request) -> bool:
        return request.adapter is None or self._slots.is_ready(request.adapter)

    def _prefetch(self) -> None:
        """Load adapters of waiting requests, round-robin over payers: a payer that waits for many adapters
        must not delay the adapters of others.
        """
        rounds = (zip_longest(*queue.heads()) for queue in self._queues.values() if queue.has_own)
        in_turn = (request for turn in chain(*rounds) for request in turn if request is not None)
        for request in islice(chain(self._preempted, in_turn), _NUM_PREFETCHED):
            if request.adapter is not None:
                self._slots.prefetch(request.adapter)

    def _locate(self, request: Request) -> bool:
        """Find where the request's adapter begins; False if its prompt does not invoke it."""
        if request.num_base_tokens is None:
            if not request.locate(() if request.adapter is None else self._slots.invocation(request.adapter)):
                return False
            self._prefixes.name_prompt(request)
        return True

    def _refuse(self, request: Request, step: Step) -> None:
        """A refused request blocks none, and its prompt counts as served to its payer."""
        step.refused.append(request)
        self._charge(request, PROMPT_WEIGHT * request.num_tokens)

    def _start(self, request: Request, slot: int, shared: Sequence[int], step: Step) -> None:
        if request not in self._preempted:
            for queue in self._joined(request):
                queue.serve(request)
        self._stop_waiting(request)
        request.slot = slot
        self._blocks.share(request.block_table, shared)
        request.num_computed = len(shared) * self._blocks.block_size
        if request.num_preemptions == 0:
            request.num_cached_prompt_tokens = request.num_computed
            request.queue_seconds = self._clock() - request.arrived_at
            self._charge(request, PROMPT_WEIGHT * request.num_pending)
        self._running.append(request)
        self._rows.start(request, 0 if request.adapter is None else self._slots.num_rows(request.adapter))
        step.admitted.append(request)
        self._continue(request, step)

    def _stop_waiting(self, request: Request) -> None:
        if request in self._preempted:
            self._preempted.remove(request)
        else:
            for queue in self._joined(request):
                queue.remove(request)
        self._count_waiting(request, -1)

    def _count_waiting(self, request: Request, change: int) -> None:
        digest = request.adapter_digest
        count = self._queue_limits.enter if change > 0 else self._queue_limits.leave
        count(request.payer, request.num_tokens)
        self._num_waiting_for[digest] += change
        if self._num_waiting_for[digest] == 0:
            del self._num_waiting_for[digest]
            if digest is not None:
                self._slots.unpin(digest)

    def _charge(self, request: Request, num_tokens: int) -> None:
        for queue in self._joined(request):
            queue.charge(request, num_tokens)

    def _joined(self, request: Request) -> Iterator[FairQueue]:
        """The queue of the request's class, and those that it has joined by ageing."""
        return (self._queues[number] for number in range(request.priority, request.aged_priority + 1))

    def _free(self, request: Request) -> None:
        self._rows.end(request)
        self._blocks.release(request.block_table)
        if request.slot != BASE_SLOT:
            self._slots.release(request.slot)
            request.slot = BASE_SLOT
