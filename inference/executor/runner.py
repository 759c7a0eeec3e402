"""Runs one step on the device: from scheduled requests to final hidden states and logits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import torch

from inference.executor.layout import build_layout
from inference.kernels.interface import SequenceSpan
from inference.kernels.select import select_kernels
from inference.lora.segments import BASE_SLOT
from inference.model.decoder import DecoderInput
from inference.model.kv_cache import KVCache
from inference.model.loader import load_decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from inference.config import EngineConfig
    from inference.executor.layout import StepLayout
    from inference.kernels.interface import Kernels
    from inference.model.collective import Collective
    from inference.model.decoder import AdapterDeltas, Decoder
    from inference.model.loader import BaseWeights
    from inference.scheduling.step import Step

logger = logging.getLogger(__name__)


def load_runner(
    config: EngineConfig,
    weights: BaseWeights,
    adapters: AdapterSource,
    max_context: int,
    num_blocks: int,
    collective: Collective,
    announce: Callable[[StepLayout], None] = lambda _: None,
) -> Runner:
    """Load one rank's share of the model. `announce` is documented at `Runner`. Raises
    `ModelNotFoundError`, `UnsupportedModelError`.
    """
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
        weights, max_context, config.device, kernels, collective, batch_invariant=config.batch_invariant
    )
    architecture = collective.shard.architecture(weights.architecture)
    cache = KVCache(architecture, num_blocks, config.kv_block_size, weights.dtype, config.device)
    decoder.compile(cache)
    return Runner(decoder, cache, adapters, kernels, announce)


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
    """Computes steps with one rank's share of the model."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        adapters: AdapterSource,
        kernels: Kernels,
        announce: Callable[[StepLayout], None] = lambda _: None,
    ) -> None:
        """`announce` is called with the layout of each step before it is computed, to start it on other
        ranks.
        """
        self._decoder = decoder
        self._cache = cache
        self._adapters = adapters
        self._kernels = kernels
        self._device = cache.device
        self._announce = announce

    def forward(self, step: Step) -> Tensor:
        """Final hidden states [num_tokens, hidden], in the order of `step.scheduled`.

        Sorts `step.scheduled` by slot, so that requests of one adapter form one segment.
        """
        step.scheduled.sort(key=lambda entry: entry.request.slot)
        layout = build_layout(step)
        self._announce(layout)
        return self.compute(layout)

    @torch.inference_mode()
    def compute(self, layout: StepLayout) -> Tensor:
        """Final hidden states [num_tokens, hidden]."""
        self._cache.scrub(layout.fresh_blocks)
        return self._decoder.forward(self._inputs(layout), self._cache)

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

    def _inputs(self, layout: StepLayout) -> DecoderInput:
        positions: list[int] = []
        kv_slots: list[int] = []
        spans: list[SequenceSpan] = []
        size = self._cache.block_size
        for _, num_tokens, end, table, _ in layout.spans:
            spans.append(SequenceSpan(len(positions), num_tokens, end, table))
            span_positions = range(end - num_tokens, end)
            positions += span_positions
            kv_slots += [table[position // size] * size + position % size for position in span_positions]
        return DecoderInput(
            token_ids=torch.tensor(layout.token_ids, device=self._device),
            positions=torch.tensor(positions, device=self._device),
            kv_slots=torch.tensor(kv_slots, device=self._device),
            attention=self._kernels.attention_batch(spans),
            adapters=self._adapters.for_step(_adapter_spans(layout), len(positions), self._kernels),
        )


def _adapter_spans(layout: StepLayout) -> Iterator[tuple[int, int]]:
    """(slot, num_tokens) in the order of the batch."""
    for span in layout.spans:
        if span.num_base:
            yield BASE_SLOT, span.num_base
        if span.num_base < span.num_tokens:
            yield span.slot, span.num_tokens - span.num_base
