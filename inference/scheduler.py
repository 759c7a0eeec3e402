"""Continuous batching: which requests run how many tokens in the next step.

Decodes come first, then prefills in chunks, then new requests, round robin over adapters. When kv_blocks run
out the youngest request is preempted and recomputed later. Nothing here touches a tensor.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from inference.lora.segments import BASE_SLOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inference.block_manager import BlockManager
    from inference.protocol import AdapterRef
    from inference.request import Request


class SlotSource(Protocol):
    """Where adapters become active."""

    def acquire(self, ref: AdapterRef) -> int | None:
        """Take a use of the adapter's slot; None while it is loading or no slot is free."""

    def is_resident(self, ref: AdapterRef) -> bool:
        """Whether the adapter is on the host, so that only a slot can have been missing."""

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
        self, blocks: BlockManager, slots: SlotSource, max_running: int, max_step_tokens: int
    ) -> None:
        self._blocks = blocks
        self._slots = slots
        self._max_running = max_running
        self._max_step_tokens = max_step_tokens
        self._running: list[Request] = []
        # Keyed by adapter digest (None: base model); the order of keys is the round robin's.
        self._waiting: OrderedDict[str | None, deque[Request]] = OrderedDict()
        self.num_preemptions = 0

    @property
    def running(self) -> list[Request]:
        return list(self._running)

    @property
    def num_waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def waiting_digests(self) -> set[str]:
        return {digest for digest in self._waiting if digest is not None}

    def waiting(self) -> Iterator[Request]:
        for queue in self._waiting.values():
            yield from queue

    def add(self, request: Request) -> None:
        self._waiting.setdefault(request.adapter_digest, deque()).append(request)

    def schedule(self) -> Step:
        """Choose the next step and reserve its kv_blocks and slots; empty when nothing can run now."""
        step = Step()
        by_arrival = sorted(self._running, key=lambda request: request.arrival)
        for request in sorted(by_arrival, key=lambda request: request.num_pending > 1):
            # An earlier turn of this loop may have preempted it.
            if request in self._running:
                self._continue(request, step)
        self._admit(step)
        return step

    def remove(self, request: Request) -> None:
        """Take out a finished or aborted request, wherever it is, and free what it holds."""
        if request in self._running:
            self._running.remove(request)
            self._free(request)
            return
        digest = request.adapter_digest
        queue = self._waiting.get(digest)
        if queue is not None and request in queue:
            queue.remove(request)
            self._drop_if_empty(digest)

    def _continue(self, request: Request, step: Step) -> None:
        num_tokens = min(request.num_pending, self._max_step_tokens - step.num_tokens)
        if num_tokens == 0:
            return
        fresh = self._blocks.grow(request.block_table, request.num_computed + num_tokens)
        while fresh is None:
            victim = self._youngest_unscheduled(step)
            self._preempt(victim)
            if victim is request:
                return
            fresh = self._blocks.grow(request.block_table, request.num_computed + num_tokens)
        step.fresh_blocks += fresh
        step.scheduled.append(ScheduledRequest(request, num_tokens))

    def _youngest_unscheduled(self, step: Step) -> Request:
        scheduled = {id(entry.request) for entry in step.scheduled}
        candidates = [request for request in self._running if id(request) not in scheduled]
        return max(candidates, key=lambda request: request.arrival)

    def _preempt(self, request: Request) -> None:
        self._running.remove(request)
        self._free(request)
        request.num_computed = 0
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._waiting.setdefault(request.adapter_digest, deque()).appendleft(request)
        self._waiting.move_to_end(request.adapter_digest, last=False)

    def _admit(self, step: Step) -> None:
        """Admit from the front of the round robin. An adapter that finds no slot holds back later arrivals:
        otherwise the active adapters' steady traffic could keep their slots for ever.
        """
        barrier = float("inf")
        passed: set[str | None] = set()
        while len(self._running) < self._max_running and step.num_tokens < self._max_step_tokens:
            request = self._next_waiting(passed)
            if request is None:
                return
            if request.arrival > barrier:
                passed.add(request.adapter_digest)
                continue
            shared = self._find_shared(request)
            if not self._blocks.can_hold(shared, request.num_tokens + 1):
                return
            slot = BASE_SLOT if request.adapter is None else self._slots.acquire(request.adapter)
            if slot is not None:
                self._start(request, slot, shared, step)
                continue
            passed.add(request.adapter_digest)
            if request.adapter is not None and self._slots.is_resident(request.adapter):
                barrier = min(barrier, request.arrival)

    def _next_waiting(self, passed: set[str | None]) -> Request | None:
        """Head of the first queue that was not passed over in this step."""
        return next((queue[0] for digest, queue in self._waiting.items() if digest not in passed), None)

    def _find_shared(self, request: Request) -> list[int]:
        num_blocks = request.num_sharable // self._blocks.block_size
        return self._blocks.find(request.block_names[:num_blocks])

    def _start(self, request: Request, slot: int, shared: Sequence[int], step: Step) -> None:
        digest = request.adapter_digest
        self._waiting[digest].popleft()
        self._waiting.move_to_end(digest)
        self._drop_if_empty(digest)
        request.slot = slot
        self._blocks.share(request.block_table, shared)
        request.num_computed = len(shared) * self._blocks.block_size
        if request.num_preemptions == 0:
            request.num_cached_prompt_tokens = request.num_computed
        self._running.append(request)
        step.admitted.append(request)
        self._continue(request, step)

    def _drop_if_empty(self, digest: str | None) -> None:
        if not self._waiting[digest]:
            del self._waiting[digest]
            if digest is not None:
                self._slots.forget(digest)

    def _free(self, request: Request) -> None:
        self._blocks.release(request.block_table)
        if request.slot != BASE_SLOT:
            self._slots.release(request.slot)
            request.slot = BASE_SLOT
