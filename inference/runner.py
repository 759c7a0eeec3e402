"""Runs one step on the device: from scheduled requests to final hidden states and logits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import torch

from inference.kernels.interface import SequenceSpan
from inference.kernels.select import select_kernels
from inference.lora.segments import BASE_SLOT
from inference.model.decoder import DecoderInput
from inference.model.kv_cache import KVCache
from inference.model.loader import load_decoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from inference.config import EngineConfig
    from inference.kernels.interface import Kernels
    from inference.model.decoder import AdapterDeltas, Decoder
    from inference.model.loader import BaseWeights
    from inference.scheduling.step import ScheduledRequest, Step

logger = logging.getLogger(__name__)


def load_runner(
    config: EngineConfig, weights: BaseWeights, adapters: AdapterSource, max_context: int, num_blocks: int
) -> Runner:
    """Load the model. Raises `ModelNotFoundError`, `UnsupportedModelError`."""
    kernels = select_kernels(
        config.kernels,
        weights.dtype,
        config.device,
        weights.quantization,
        batch_invariant=config.batch_invariant,
    )
    if weights.architecture.special_features:
        features = ", ".join(weights.architecture.special_features)
        logger.warning("slower: %s has %s, in plain torch", weights.architecture.family, features)
    decoder = load_decoder(
        weights, max_context, config.device, kernels, batch_invariant=config.batch_invariant
    )
    cache = KVCache(weights.architecture, num_blocks, config.kv_block_size, weights.dtype, config.device)
    decoder.compile(cache)
    return Runner(decoder, cache, adapters, kernels)


class AdapterSource(Protocol):
    """Provides the adapters of a batch."""

    def for_step(
        self, spans: Iterable[tuple[int, int]], num_tokens: int, kernels: Kernels
    ) -> AdapterDeltas | None:
        """Adapters of a batch that consists of `spans` of (slot, num_tokens); None if all of them run on the
        base model.
        """

    def for_head(self, spans: Sequence[tuple[int, int]], kernels: Kernels) -> AdapterDeltas | None:
        """Adapters of the head for rows that consist of `spans` of (slot, num_rows); None if none changes
        it.
        """


class Runner:
    """Computes steps on the device."""

    def __init__(self, decoder: Decoder, cache: KVCache, adapters: AdapterSource, kernels: Kernels) -> None:
        self._decoder = decoder
        self._cache = cache
        self._adapters = adapters
        self._kernels = kernels
        self._device = cache.device
        self.fixed_rows = kernels.fixed_rows

    @torch.inference_mode()
    def forward(self, step: Step) -> Tensor:
        """Final hidden states [num_tokens, hidden], in the order of `step.scheduled`.

        Sorts `step.scheduled` by slot, so that requests of one adapter form one segment.
        """
        step.scheduled.sort(key=lambda entry: entry.request.slot)
        self._cache.scrub(step.fresh_blocks)
        return self._decoder.forward(self._inputs(step), self._cache)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, rows: Sequence[int], slots: Sequence[int]) -> Tensor:
        """[len(rows), vocab] in the model's dtype. `slots`: of each row's adapter."""
        adapters = self._adapters.for_head([(slot, 1) for slot in slots], self._kernels)
        return self._decoder.logits(hidden[torch.tensor(rows, device=hidden.device)], adapters)

    def top_probabilities(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See `inference.probe.OutputHead`, as for `sum_outputs`."""
        return self._kernels.top_probabilities(logits, count)

    @torch.inference_mode()
    def sum_outputs(self, weights: Tensor, token_ids: Tensor) -> Tensor:
        return self._decoder.sum_outputs(weights, token_ids)

    def argmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Largest value and its index in each row of `logits` [n, vocab]: [n] and [n]."""
        return self._kernels.argmax(logits)

    def _inputs(self, step: Step) -> DecoderInput:
        """The tokens of all requests, concatenated without padding."""
        token_ids: list[int] = []
        positions: list[int] = []
        kv_slots: list[int] = []
        spans: list[SequenceSpan] = []
        size = self._cache.block_size
        for entry in step.scheduled:
            request, table = entry.request, entry.request.block_table
            start, end = request.num_computed, request.num_computed + entry.num_rows
            spans.append(SequenceSpan(len(positions), entry.num_rows, end, table))
            token_ids += request.token_ids[start : start + entry.num_tokens] + entry.proposal
            positions += range(start, end)
            kv_slots += [table[position // size] * size + position % size for position in range(start, end)]
        adapter_spans = _adapter_spans(step.scheduled)
        return DecoderInput(
            token_ids=torch.tensor(token_ids, device=self._device),
            positions=torch.tensor(positions, device=self._device),
            kv_slots=torch.tensor(kv_slots, device=self._device),
            attention=self._kernels.attention_batch(spans),
            adapters=self._adapters.for_step(adapter_spans, len(positions), self._kernels),
        )


def _adapter_spans(scheduled: Iterable[ScheduledRequest]) -> Iterator[tuple[int, int]]:
    """(slot, num_tokens) in the order of the batch. An activated adapter leaves the prompt before its
    invocation to the base model.
    """
    for entry in scheduled:
        request = entry.request
        num_base = min(entry.num_tokens, max(0, (request.num_base_tokens or 0) - request.num_computed))
        if num_base:
            yield BASE_SLOT, num_base
        if num_base < entry.num_rows:
            yield request.slot, entry.num_rows - num_base
