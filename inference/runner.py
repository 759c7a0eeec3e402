"""One step on the device: from scheduled requests to final hidden states and logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from inference.kernels.choice import choose_kernels
from inference.layout import lay_out
from inference.model.attention import SequenceSpan, plan_attention
from inference.model.decoder import DecoderInput
from inference.model.kv_cache import KVCache
from inference.model.loader import load_decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from inference.config import EngineConfig
    from inference.kernels.interface import Kernels
    from inference.layout import StepLayout
    from inference.model.decoder import AdapterDeltas, Decoder
    from inference.model.loader import BaseWeights
    from inference.parallel.collective import Collective
    from inference.scheduler import Step


def make_runner(
    config: EngineConfig,
    weights: BaseWeights,
    adapters: AdapterSource,
    max_context: int,
    num_blocks: int,
    collective: Collective,
    announce: Callable[[StepLayout], None] = lambda _: None,
) -> Runner:
    """Load one rank's share of the model. Raises `ModelNotFoundError`, `UnsupportedModelError`."""
    kernels = choose_kernels(
        config.kernels, weights.dtype, config.device, batch_invariant=config.batch_invariant
    )
    decoder = load_decoder(
        weights, max_context, config.device, kernels, collective, batch_invariant=config.batch_invariant
    )
    own = collective.shard.architecture(weights.architecture)
    cache = KVCache(own, num_blocks, config.kv_block_size, weights.dtype, config.device)
    return Runner(decoder, cache, adapters, kernels, announce, batch_invariant=config.batch_invariant)


class AdapterSource(Protocol):
    """Where the adapters of a batch are."""

    def for_step(
        self, runs: Iterable[tuple[int, int]], num_tokens: int, kernels: Kernels
    ) -> AdapterDeltas | None:
        """Deltas of a batch made of `runs` of (slot, num_tokens); None if all of it is on the base model."""


class Runner:
    """Turns bookkeeping into tensors."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        adapters: AdapterSource,
        kernels: Kernels,
        announce: Callable[[StepLayout], None] = lambda _: None,
        *,
        batch_invariant: bool = False,
    ) -> None:
        """`announce` is told of every step before it is computed here, for the ranks that compute it too."""
        self._decoder = decoder
        self._cache = cache
        self._adapters = adapters
        self._kernels = kernels
        self._device = cache.device
        self._announce = announce
        self._batch_invariant = batch_invariant

    def forward(self, step: Step) -> Tensor:
        """Final hidden states [num_tokens, hidden], in the order of `step.scheduled`, which is sorted by slot
        here.
        """
        step.scheduled.sort(
            key=lambda entry: entry.request.slot
        )  # neighbours of one adapter make one segment
        layout = lay_out(step)
        self._announce(layout)
        return self.compute(layout)

    @torch.inference_mode()
    def compute(self, layout: StepLayout) -> Tensor:
        """Final hidden states [num_tokens, hidden]."""
        self._cache.scrub(layout.fresh_blocks)
        return self._decoder.forward(self._inputs(layout), self._cache)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        """[len(rows), vocab] in the model's dtype."""
        return self._decoder.logits(hidden[torch.tensor(rows, device=hidden.device)])

    @torch.inference_mode()
    def output_rows(self, token_ids: Tensor) -> Tensor:
        """[len(token_ids), hidden]: what hidden states are multiplied by for these tokens' logits."""
        return self._decoder.output_rows(token_ids)

    def argmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Largest value and its place in each row of `logits` [n, vocab]: [n] and [n]."""
        return self._kernels.argmax(logits)

    def _inputs(self, layout: StepLayout) -> DecoderInput:
        positions: list[int] = []
        kv_slots: list[int] = []
        spans: list[SequenceSpan] = []
        size = self._cache.block_size
        for _, num_tokens, end, table in layout.spans:
            spans.append(SequenceSpan(len(positions), num_tokens, end, table))
            own = range(end - num_tokens, end)
            positions += own
            kv_slots += [table[position // size] * size + position % size for position in own]
        runs = [(span.slot, span.num_tokens) for span in layout.spans]
        return DecoderInput(
            token_ids=torch.tensor(layout.token_ids, device=self._device),
            positions=torch.tensor(positions, device=self._device),
            kv_slots=torch.tensor(kv_slots, device=self._device),
            attention=plan_attention(
                spans,
                size,
                self._decoder.heads_per_kv,
                self._cache.dtype,
                self._device,
                reads_pages=self._kernels.reads_pages,
                token_by_token=self._batch_invariant,
            ),
            adapters=self._adapters.for_step(runs, len(positions), self._kernels),
        )
