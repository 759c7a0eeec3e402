"""A scheduler without a model: requests sample token 0, adapters are names."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from inference.lora.blend import Blend
from inference.lora.slots import AdapterSlots
from inference.protocol import AdapterRef, Sampling
from inference.request import GenerationRequest
from inference.sampling.state import SamplingState
from inference.scheduling.block_manager import BlockManager
from inference.scheduling.fair_queue import ANSWER_WEIGHT, PROMPT_WEIGHT
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.queue_limits import QueueLimits
from inference.scheduling.scheduler import Scheduler
from inference.scheduling.step import ComputedTokens, StepLimits
from inference.tokenization.detokenizer import TextStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.lora.arena import AdapterArena
    from inference.request import Request
    from inference.scheduling.step import Step


class _NoText:
    def decode(self, token_ids: Sequence[int]) -> str:
        return ""


class _Arena:
    """Rows without weights."""

    def __init__(self, num_slots: int, num_rows: int) -> None:
        self.num_rows = num_rows
        self.rows_by_slot: list[slice | None] = [None] * num_slots

    def write(self, blend: Blend, slot: int, rows: slice) -> None:
        self.rows_by_slot[slot] = rows

    def erase(self, slot: int) -> None:
        self.rows_by_slot[slot] = None


class FakeSlots:
    """Slots of adapters without weights, of one row if `ranks` names no other number; adapters whose digest
    is in `loading` are not ready.
    """

    def __init__(self, num_slots: int, num_rows: int) -> None:
        arena: AdapterArena = _Arena(num_slots, num_rows)  # type: ignore[assignment]
        self._slots = AdapterSlots(arena, num_slots)
        self.ranks: dict[str, int] = {}
        self.loading: set[str] = set()
        self.invocations: dict[str, tuple[int, ...]] = {}
        self.wanted: list[str] = []
        self.forgotten: list[str] = []

    def prefetch(self, ref: AdapterRef) -> None:
        if ref.digest not in self.wanted:
            self.wanted.append(ref.digest)

    def is_ready(self, ref: AdapterRef) -> bool:
        return ref.digest not in self.loading

    def invocation(self, ref: AdapterRef) -> tuple[int, ...]:
        assert self.is_ready(ref)
        return self.invocations.get(ref.digest, ())

    def num_rows(self, ref: AdapterRef) -> int:
        return self.ranks.get(ref.digest, 1)

    def acquire(self, ref: AdapterRef) -> int | None:
        assert self.is_ready(ref)
        return self._slots.activate(Blend(ref.digest, (), self.num_rows(ref)))

    def release(self, slot: int) -> None:
        self._slots.release(slot)

    def unpin(self, digest: str) -> None:
        self.forgotten.append(digest)

    def check(self, slots_in_use: Sequence[int]) -> None:
        self._slots.check_integrity(Counter(slots_in_use))


class SchedulerHarness:
    """A scheduler with a simulated engine. It records the contents of each KV block and asserts that no
    request starts from a prefix that is not its own.
    """

    def __init__(
        self,
        num_blocks: int = 100,
        max_running: int = 8,
        max_step_tokens: int = 16,
        num_slots: int = 4,
        num_rows: int = 1024,
    ) -> None:
        self.now = 0.0
        self._max_step_tokens = max_step_tokens
        self.blocks = BlockManager(num_blocks + 1, block_size=4)
        self.slots = FakeSlots(num_slots, num_rows)
        self._prefixes = PrefixCache(self.blocks, "payer", 1, "cpu")
        self.scheduler = Scheduler(
            self.blocks,
            self.slots,
            self._prefixes,
            QueueLimits(10_000, 1_000_000),
            StepLimits(max_running, max_step_tokens, num_rows, fixed_rows=32),
            clock=lambda: self.now,
        )
        self.num_added = self.num_refused = 0
        self.served: Counter[tuple[str, str | None]] = Counter()
        """Weighted tokens of each payer under each adapter."""
        self._contents: dict[int, tuple[object, ...]] = {}

    def add(
        self,
        num_tokens: int,
        adapter: str | None = None,
        max_tokens: int = 4,
        payer: str = "",
        priority: int = 0,
        token: int | None = None,
    ) -> GenerationRequest:
        """Add a prompt of repeated `token`; by default a token that no other prompt uses."""
        self.num_added += 1
        request = GenerationRequest(
            request_id=f"{adapter}{self.num_added - 1}",
            token_ids=[self.num_added if token is None else token] * num_tokens,
            num_prompt_tokens=num_tokens,
            max_tokens=max_tokens,
            sampling=SamplingState(Sampling(), ()),
            adapter=None if adapter is None else AdapterRef(adapter, ""),
            text=TextStream(_NoText(), ()),
            probe=None,
            payer=payer,
            priority=priority,
            arrival=self.num_added,
        )
        self.scheduler.add(request)
        return request

    def step(self) -> dict[str, int]:
        """Run one step and remove finished requests; returns the scheduled tokens by request id."""
        step = self.scheduler.schedule()
        for request in step.refused:
            self.scheduler.remove(request)
            self.num_refused += 1
        self._begin(step)
        for entry in step.scheduled:
            self._write(entry.request, entry.request.num_computed + entry.num_tokens)
        if step.scheduled:
            computed, row = [], 0
            for entry in step.scheduled:
                computed.append(ComputedTokens(entry.request, range(row, row + entry.num_tokens)))
                row += entry.num_tokens
            self._prefixes.record(computed, torch.zeros(step.num_tokens, 1))
        for entry in step.scheduled:
            request = entry.request
            request.num_computed += entry.num_tokens
            if request.num_pending == 0:
                request.token_ids.append(0)
                self.served[request.payer, request.adapter_digest] += ANSWER_WEIGHT
            assert isinstance(request, GenerationRequest)
            if request.num_answer_tokens == request.max_tokens:
                self.scheduler.remove(request)
        self.check()
        return {entry.request.request_id: entry.num_tokens for entry in step.scheduled}

    def check(self) -> None:
        running = self.scheduler.running
        self.blocks.check_integrity(request.block_table for request in running)
        self.scheduler.check_integrity()
        self.slots.check([request.slot for request in running if request.adapter is not None])

    def _begin(self, step: Step) -> None:
        self._prefixes.begin(step)
        for request in step.admitted:
            for number in range(request.num_computed // 4):
                assert self._contents[request.block_table[number]] == _content(request, 4 * number + 4)
            if request.num_preemptions == 0:
                self.served[request.payer, request.adapter_digest] += PROMPT_WEIGHT * request.num_pending
        ids = [entry.request.request_id for entry in step.scheduled]
        assert len(ids) == len(set(ids))
        for entry in step.scheduled:
            assert 0 < entry.num_tokens <= entry.request.num_pending
            end = entry.request.num_computed + entry.num_tokens
            assert len(entry.request.block_table) * 4 >= end
            is_partial = entry.num_tokens < entry.request.num_pending
            assert not is_partial or step.num_tokens == self._max_step_tokens

    def _write(self, request: Request, end: int) -> None:
        for position in range(request.num_computed, end):
            self._contents[request.block_table[position // 4]] = _content(request, position + 1)


def _content(request: Request, end: int) -> tuple[object, ...]:
    return (request.adapter_digest, request.payer, *request.token_ids[:end])
