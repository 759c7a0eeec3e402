"""A compiled step against the single kernels, which define what it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.kernels.cpu import Cpu, this_cpu
from inference.kernels.interface import Segment, SequenceSpan
from inference.kernels.native import NativeKernels
from inference.kernels.threads import set_num_threads
from inference.lora.arena import AdapterArena, StepAdapters
from inference.model.decoder import DecoderInput
from inference.model.families import read_architecture
from inference.model.kv_cache import KVCache
from inference.model.loader import BaseWeights, load_decoder
from tests.fixtures_engine import make_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inference.kernels.interface import Kernels
    from inference.model.architecture import Architecture
    from inference.model.decoder import Decoder

BLOCK_SIZE, NUM_BLOCKS, NUM_ROWS = 16, 40, 24
# Biases, norms of heads, layers without rotation; an MLP whose gates end inside a panel of 32 outputs.
FAMILIES = {"qwen2": 96, "qwen3": 80, "smollm3": 96}
CPUS = [Cpu("any", frozenset({"avx512f"})), this_cpu()]


class Compiled:
    """A decoder of two random layers, its cache, and adapters."""

    def __init__(self, weights: BaseWeights, kernels: Kernels) -> None:
        self.architecture: Architecture = weights.architecture
        self.kernels = kernels
        self.cache = KVCache(self.architecture, NUM_BLOCKS, BLOCK_SIZE, torch.bfloat16, "cpu")
        self.plain, self.decoder = (
            load_decoder(weights, 512, "cpu", kernels, batch_invariant=False) for _ in range(2)
        )
        assert self.decoder.compile(self.cache)
        self.arena = AdapterArena(self.architecture, NUM_ROWS, 3, torch.bfloat16, "cpu")
        torch.manual_seed(1)
        for layer, linear in self.architecture.linear_keys:
            target = self.arena.target(layer, linear)
            target.shrink.normal_(), target.expand.normal_(std=0.1)

    def states(self, decoder: Decoder, batch: DecoderInput, seed: int) -> list[torch.Tensor]:
        """The result, and the keys and values that the step leaves in the cache."""
        torch.manual_seed(seed)
        pages = [self.cache.pages(layer) for layer in range(self.architecture.num_layers)]
        for page in pages:
            page.keys.normal_(), page.values.normal_()
        states = decoder.forward(batch, self.cache)
        return [states, *(part.clone() for page in pages for part in page)]


@pytest.fixture(scope="module", params=FAMILIES)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseWeights:
    family = request.param
    path = make_model(tmp_path_factory.mktemp(family), family, intermediate_size=FAMILIES[family])
    return BaseWeights.open(path, read_architecture(path), torch.bfloat16)


@pytest.fixture(scope="module", params=CPUS, ids=["widened", "this CPU"])
def compiled(request: pytest.FixtureRequest, weights: BaseWeights) -> Compiled:
    return Compiled(weights, NativeKernels(torch.bfloat16, cpu=request.param))


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    set_num_threads(request.param)
    yield
    set_num_threads(1)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    shapes=st.lists(
        st.tuples(st.sampled_from([1, 1, 2, 9, 70]), st.integers(0, 80), st.integers(-1, 2)),
        min_size=1,
        max_size=4,
    ),
    is_partial=st.booleans(),
)
@pytest.mark.usefixtures("threads")
@torch.inference_mode()
def test_a_compiled_step_has_the_bits_of_the_single_kernels(
    compiled: Compiled, seed: int, shapes: list[tuple[int, int, int]], is_partial: bool
) -> None:
    """`shapes`: tokens, context before them, slot of the adapter. `is_partial`: not all linears have one."""
    batch = make_batch(compiled, seed, shapes, is_partial=is_partial)
    actual, expected = (
        compiled.states(decoder, batch, seed) for decoder in (compiled.decoder, compiled.plain)
    )
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["gemma3_text", "mixtral"])
def test_what_the_compiled_step_does_not_know_stays_with_the_single_kernels(
    tmp_path: Path, family: str
) -> None:
    path = make_model(tmp_path, family)
    weights = BaseWeights.open(path, read_architecture(path), torch.bfloat16)
    kernels = NativeKernels(torch.bfloat16)
    decoder = load_decoder(weights, 512, "cpu", kernels, batch_invariant=False)
    assert not decoder.compile(KVCache(weights.architecture, 4, BLOCK_SIZE, torch.bfloat16, "cpu"))


def make_batch(
    compiled: Compiled, seed: int, shapes: list[tuple[int, int, int]], *, is_partial: bool
) -> DecoderInput:
    torch.manual_seed(seed)
    blocks = torch.randperm(NUM_BLOCKS - 1) + 1
    spans, segments, positions, slots = [], [], list[int](), list[int]()
    for number, (count, history, slot) in enumerate(sorted(shapes, key=lambda shape: shape[2])):
        table = blocks[number * 9 : number * 9 + 10].tolist()[:10]
        own = range(history, history + count)
        if slot >= 0:
            start = len(positions)
            segments.append(Segment(start, start + count, slot, slice(8 * slot, 8 * slot + 5 + slot)))
        spans.append(SequenceSpan(len(positions), count, history + count, table))
        slots += [table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE for position in own]
        positions += own
    keys = frozenset(compiled.architecture.linear_keys[:: 2 if is_partial else 1])
    lora = compiled.kernels.lora_batch(segments, len(positions))
    return DecoderInput(
        token_ids=torch.randint(compiled.architecture.vocab_size, (len(positions),)),
        positions=torch.tensor(positions),
        kv_slots=torch.tensor(slots),
        attention=compiled.kernels.attention_batch(spans),
        adapters=StepAdapters(compiled.arena, lora, keys) if segments else None,
    )
