"""One step on the device: from scheduled requests to final hidden states and logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inference.model.attention import SequenceSpan, plan_attention
from inference.model.decoder import DecoderInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.kernels.interface import Kernels
    from inference.lora.host import AdapterHost
    from inference.model.decoder import Decoder
    from inference.model.kv_cache import KVCache
    from inference.scheduler import ScheduledRequest, Step


class Runner:
    """Turns bookkeeping into tensors. All requests' tokens are laid end to end; nothing is padded here."""

    def __init__(self, decoder: Decoder, cache: KVCache, adapters: AdapterHost, kernels: Kernels) -> None:
        self._decoder = decoder
        self._cache = cache
        self._adapters = adapters
        self._kernels = kernels
        self._device = cache.device

    @torch.inference_mode()
    def forward(self, step: Step) -> Tensor:
        """Final hidden states [num_tokens, hidden], in the order of `step.scheduled`, which is sorted by slot
        here.
        """
        self._cache.scrub(step.fresh_blocks)
        step.scheduled.sort(
            key=lambda entry: entry.request.slot
        )  # neighbours of one adapter make one segment
        return self._decoder.forward(self._inputs(step.scheduled, step.num_tokens), self._cache)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        """[len(rows), vocab] fp32."""
        return self._decoder.logits(hidden[torch.tensor(rows, device=hidden.device)])

    def _inputs(self, scheduled: Sequence[ScheduledRequest], num_tokens: int) -> DecoderInput:
        token_ids: list[int] = []
        positions: list[int] = []
        kv_slots: list[int] = []
        spans: list[SequenceSpan] = []
        size = self._cache.block_size
        for entry in scheduled:
            request, start = entry.request, entry.request.num_computed
            end = start + entry.num_tokens
            table = request.block_table
            spans.append(SequenceSpan(len(token_ids), entry.num_tokens, end, table))
            token_ids += request.token_ids[start:end]
            positions += range(start, end)
            kv_slots += [table[position // size] * size + position % size for position in range(start, end)]
        runs = [(entry.request.slot, entry.num_tokens) for entry in scheduled]
        return DecoderInput(
            token_ids=torch.tensor(token_ids, device=self._device),
            positions=torch.tensor(positions, device=self._device),
            kv_slots=torch.tensor(kv_slots, device=self._device),
            attention=plan_attention(
                spans,
                size,
                self._decoder.heads_per_kv,
                self._cache.dtype,
                self._device,
                reads_pages=self._kernels.reads_pages,
            ),
            adapters=self._adapters.for_step(runs, num_tokens, self._kernels),
        )
