"""Random mixes of every kind of adapter, of blends and of none, of free answers and answers bound by tools or
a schema, in an engine that is short of everything.

Each answer is what transformers with PEFT gives for its request alone: in every place the best token of those
that its grammar allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from inference.engine import Engine
from inference.model.families import read_architecture
from inference.model.kv_cache import bytes_per_block
from inference.protocol import Chunk, Generate, JsonSchema, Tools
from inference.scheduling.prefix_cache import PrefixCache
from tests.fixtures_engine import FAMILIES, Oracle, make_adapter, make_model, tiny_config
from tests.support.calls import TOOLS
from tests.support.parity import KINDS, blend, make_kinds, prompts_of, request

if TYPE_CHECKING:
    from pathlib import Path

    from hypothesis.strategies import SearchStrategy

    from inference.sampling.grammar import Grammar, GrammarCompiler
    from tests.fixtures_engine import AnyAdapter

INVOCATION = [11, 12]
ACTIVATED = "activated"
BINDINGS: dict[str, tuple[Tools | None, JsonSchema | None]] = {
    "calls or text": (TOOLS, None),
    "calls": (msgspec.structs.replace(TOOLS, is_required=True), None),
    "schema": (None, JsonSchema('{"type": "array", "items": {"type": "integer"}, "minItems": 2}')),
}
PLAIN_KINDS = [name for name, kind in KINDS.items() if not kind.get("use_dora")]


@dataclass(frozen=True)
class Arrival:
    """A request of `length` prompt tokens that comes at step `start`, and may be aborted `patience` later."""

    kind: str | tuple[tuple[str, float], ...] | None
    length: int
    max_tokens: int
    start: int
    patience: int | None
    payer: str
    binding: str | None = None  # of `BINDINGS`

    def command(self, key: str, adapter: AnyAdapter) -> Generate:
        command = request(key, adapter, max_tokens=self.max_tokens, payer=self.payer)
        if self.binding is None:
            return command
        tools, schema = BINDINGS[self.binding]
        sampling = msgspec.structs.replace(command.sampling, ignore_eos=False, constraint=schema)
        return msgspec.structs.replace(command, sampling=sampling, tools=tools)

    def prompt(self, token_ids: list[int]) -> list[int]:
        middle = len(token_ids) // 2
        return token_ids[:middle] + (INVOCATION if self.kind == ACTIVATED else []) + token_ids[middle:]


@dataclass
class ReferenceModel:
    """One model, its adapters and a reference implementation."""

    model: Path
    oracle: Oracle
    adapters: dict[str, Any]
    grammars: GrammarCompiler

    def adapter(self, kind: str | tuple[tuple[str, float], ...] | None) -> AnyAdapter:
        if isinstance(kind, tuple):
            return blend(*((self.adapters[name], weight) for name, weight in kind))
        return None if kind is None else self.adapters[kind]


def kinds() -> SearchStrategy[Any]:
    parts = st.tuples(st.sampled_from(PLAIN_KINDS), st.sampled_from([-0.5, 0.25, 1.0, 1.5]))
    blends = st.lists(parts, min_size=1, max_size=3, unique_by=lambda part: part[0]).map(tuple)
    return st.none() | st.sampled_from([*KINDS, ACTIVATED]) | blends


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        kind=kinds(),
        length=st.integers(1, 30),
        max_tokens=st.integers(1, 24),
        start=st.integers(0, 12),
        patience=st.none() | st.none() | st.integers(0, 15),
        payer=st.sampled_from(["", "a"]),
        binding=st.none() | st.sampled_from(list(BINDINGS)),
    ),
    min_size=3,
    max_size=12,
)
# Every resource from plenty to the least that lets one request through at all.
SHORTAGES = st.fixed_dictionaries(
    {
        "max_step_tokens": st.sampled_from([2, 7, 32, 512]),
        "max_running": st.sampled_from([1, 3, 32]),
        "kv_block_size": st.sampled_from([1, 4, 16]),
        "num_positions": st.sampled_from([64, 100, 4000]),  # of the KV cache
        "num_adapter_slots": st.sampled_from([1, 2, 4, 32]),
        "num_adapter_rows": st.sampled_from([24, 40, 512]),
        "adapter_budget_bytes": st.sampled_from([320_000, 400_000, 16_000_000]),
        "kernels": st.sampled_from(["portable", "auto"]),
    }
)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReferenceModel]:
    class ReferenceModels(dict[str, ReferenceModel]):
        def __missing__(self, family: str) -> ReferenceModel:
            root = tmp_path_factory.mktemp(family)
            model = make_model(root / "model", family)
            adapters = make_kinds(root, model)
            adapters[ACTIVATED] = make_adapter(
                root / ACTIVATED, model, rank=5, alora_invocation_tokens=INVOCATION
            )
            engine = Engine(tiny_config(model))
            engine.close()
            self[family] = ReferenceModel(model, Oracle(model), adapters, engine.grammars)
            return self[family]

    return ReferenceModels()


def prompts_for(arrivals: list[Arrival]) -> dict[str, list[int]]:
    drawn = prompts_of([arrival.length for arrival in arrivals])
    return {key: arrival.prompt(drawn[key]) for key, arrival in zip(drawn, arrivals, strict=True)}


def run(
    engine: Engine, reference: ReferenceModel, arrivals: list[Arrival]
) -> tuple[dict[str, list[int]], set[str]]:
    """Tokens by request, and those that were aborted. The engine is checked after every step."""
    prompts = prompts_for(arrivals)
    answers: dict[str, list[int]] = {key: [] for key in prompts}
    aborted: set[str] = set()
    step = 0
    while not engine.is_idle or any(arrival.start >= step for arrival in arrivals):
        for key, arrival in zip(prompts, arrivals, strict=True):
            if arrival.start == step:
                engine.add(arrival.command(key, reference.adapter(arrival.kind)), prompts[key])
            if arrival.patience is not None and arrival.start + arrival.patience == step:
                aborted |= {key} if engine.abort(key) is not None else set()
        for output in engine.step():
            assert isinstance(output, Chunk), output
            answers[output.request_id] += output.token_ids
        engine.check_integrity()
        step += 1
        if engine.is_stalled and not engine.is_idle:
            assert engine._loaded.wait(30), "no request can make progress"
    return answers, aborted


def check(reference: ReferenceModel, arrivals: list[Arrival], shortage: dict[str, Any]) -> None:
    limits = dict(shortage)
    num_blocks = limits.pop("num_positions") // limits["kv_block_size"] + 1
    architecture = read_architecture(reference.model)
    block_bytes = bytes_per_block(architecture, limits["kv_block_size"], torch.float32)
    block_bytes += PrefixCache.bytes_per_block(architecture.hidden_size)
    limits |= {"kv_budget_bytes": num_blocks * block_bytes, "max_rank": 16}
    engine = Engine(tiny_config(reference.model, **limits))
    engine.grammars = reference.grammars  # compiled once: that takes longer than answering
    try:
        answers, aborted = run(engine, reference, arrivals)
    finally:
        engine.close()
    event(f"preempted: {engine.status().num_preemptions > 0}")
    event(f"aborted: {bool(aborted)}")
    event(f"bound: {any(arrival.binding for arrival in arrivals)}")
    for (key, prompt), arrival in zip(prompts_for(arrivals).items(), arrivals, strict=True):
        adapter, answer = reference.adapter(arrival.kind), answers[key]
        grammar = engine.constraint_of(arrival.command(key, adapter))
        masks = None if grammar is None else allowed(reference.grammars.compile(grammar), answer)
        is_ended = bool(answer) and answer[-1] in engine.vocabulary.end_token_ids and masks is not None
        assert len(answer) == arrival.max_tokens or is_ended or key in aborted
        if answer:
            reference.oracle.check_greedy(prompt, answer, adapter, masks)


def allowed(grammar: Grammar, answer: list[int]) -> torch.Tensor:
    """[num_tokens, vocab]: whether the grammar allows a token in each place of `answer`."""
    state, rows = grammar.start(), []
    for token_id in answer:
        bits = np.unpackbits(np.frombuffer(state.allowed(), np.uint8), bitorder="little")
        rows.append(bits[: grammar.vocabulary.size].astype(bool))
        state.push(token_id)
    return torch.tensor(np.array(rows))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(arrivals=ARRIVALS, shortage=SHORTAGES)
def test_any_mix_under_any_shortage(
    arrivals: list[Arrival], shortage: dict[str, Any], references: dict[str, ReferenceModel]
) -> None:
    check(references["llama"], arrivals, shortage)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(arrivals=ARRIVALS, shortage=SHORTAGES, family=st.sampled_from(FAMILIES))
def test_any_mix_under_any_shortage_on_every_family(
    arrivals: list[Arrival], shortage: dict[str, Any], family: str, references: dict[str, ReferenceModel]
) -> None:
    check(references[family], arrivals, shortage)
