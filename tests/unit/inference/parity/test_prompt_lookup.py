"""Prompt lookup changes no answer: tokens, log-probabilities, usage and probes are those of single steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from inference.engine import Engine
from inference.protocol import Chunk, Generate, JsonSchema, Sampling
from tests.fixtures_engine import make_adapter, run_all, tiny_config
from tests.support.parity import blend, make_kinds, request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inference.protocol import ProbeStates
    from inference.scheduling.step import Step
    from tests.fixtures_engine import Answer, AnyAdapter

INVOCATION = [11, 12]
SCHEMA = JsonSchema('{"type": "array", "items": {"enum": [1, 12, 123]}, "minItems": 3}')
FEW = dict.fromkeys((70, 71, 72), 100.0)  # an answer of these alone repeats itself, but not for long
PROBE_TOLERANCE = 1e-4  # the sums of a prompt's chunks are taken in another order


@dataclass(frozen=True)
class Arrival:
    """A request that comes when `after` tokens have been sampled, and may be aborted `patience` later."""

    motif: list[int]
    repeats: int
    kind: int
    sampling: Sampling
    after: int
    patience: int | None
    probe: bool
    is_bound: bool

    def command(self, key: str, adapters: Sequence[AnyAdapter]) -> Generate:
        sampling = self.sampling
        if self.is_bound:
            sampling = msgspec.structs.replace(sampling, constraint=SCHEMA, ignore_eos=False, logit_bias={})
        command = request(key, adapters[self.kind % len(adapters)])
        return msgspec.structs.replace(command, sampling=sampling, probe=self.probe, probe_error=True)

    @property
    def prompt(self) -> list[int]:
        return [*self.motif * self.repeats, *INVOCATION, *self.motif]


SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 40),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    seed=st.integers(0, 99),
    logit_bias=st.sampled_from([{}, FEW, FEW]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    logprobs=st.sampled_from([None, 0, 3]),
    stop=st.sampled_from([(), (), ("ABC",), ("B", "CC")]),  # bytes 65 to 67: tokens of the alphabet
    ignore_eos=st.just(value=True),
)
ARRIVALS = st.lists(
    st.builds(
        Arrival,
        motif=st.lists(st.integers(69, 72), min_size=1, max_size=5),
        repeats=st.integers(0, 5),
        kind=st.integers(0, 99),
        sampling=SAMPLINGS,
        after=st.integers(0, 30),
        patience=st.none() | st.none() | st.integers(0, 30),
        probe=st.booleans(),
        is_bound=st.sampled_from([False, False, True]),
    ),
    min_size=1,
    max_size=7,
)
SHORTAGES = st.fixed_dictionaries(
    {
        "max_step_tokens": st.sampled_from([3, 20, 512]),
        "kv_block_size": st.sampled_from([1, 4, 16]),
        "kv_budget_bytes": st.sampled_from([52 * 1024, 90 * 1024, 4 * 1024 * 1024]),
        "num_adapter_slots": st.sampled_from([1, 2, 32]),
        "prefix_sharing": st.sampled_from(["off", "payer"]),
        "max_context": st.sampled_from([60, None]),
    }
)


@dataclass
class Observed:
    """What came of all requests."""

    chunks: dict[str, list[Chunk]] = field(default_factory=dict)
    aborted: set[str] = field(default_factory=set)

    def tokens(self, key: str) -> list[int]:
        return [token for chunk in self.chunks.get(key, []) for token in chunk.token_ids]


@pytest.fixture(scope="module")
def adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AnyAdapter]:
    root = tmp_path_factory.mktemp("kinds")
    kinds = make_kinds(root, tiny_llama, ("plain", "rslora", "dora"))
    activated = make_adapter(root / "activated", tiny_llama, alora_invocation_tokens=INVOCATION)
    return [None, blend((kinds["plain"], 0.5), (kinds["rslora"], 0.5)), activated, *kinds.values()]


def observe(engine: Engine, arrivals: Sequence[Arrival], adapters: Sequence[AnyAdapter]) -> Observed:
    """Run all arrivals; the engine is checked after every step."""
    seen = Observed()
    waiting = {str(number): arrival for number, arrival in enumerate(arrivals)}
    num_sampled = 0
    while waiting or not engine.is_idle:
        for key, arrival in list(waiting.items()):
            if arrival.after <= num_sampled or engine.is_idle:
                engine.add(waiting.pop(key).command(key, adapters), arrival.prompt)
        for output in engine.step():
            assert isinstance(output, Chunk), output
            seen.chunks.setdefault(output.request_id, []).append(output)
            num_sampled += len(output.token_ids)
        for key, arrival in enumerate(arrivals):
            if arrival.patience is not None and len(seen.tokens(str(key))) > arrival.patience:
                seen.aborted |= {str(key)} if engine.abort(str(key)) is not None else set()
        engine.check_integrity()
        if engine.is_stalled and not engine.is_idle:
            assert engine._loaded.wait(30), "no request can make progress"
    return seen


def check(
    model: Path, adapters: Sequence[AnyAdapter], arrivals: Sequence[Arrival], shortage: dict[str, Any]
) -> None:
    options = {**shortage, "batch_invariant": True, "kernels": "native"}
    engines = [Engine(tiny_config(model, prompt_lookup=lookup, **options)) for lookup in (False, True)]
    engines.append(
        Engine(tiny_config(model, prompt_lookup=False, prefix_sharing="off", batch_invariant=True))
    )
    engines[1].grammars = engines[2].grammars = engines[0].grammars
    plain, looked_up, _ = engines
    try:
        expected, found = (observe(engine, arrivals, adapters) for engine in (plain, looked_up))
        for key, arrival in enumerate(arrivals):
            compare(expected, found, str(key), arrival)
        continue_answers(looked_up, engines[2], found, arrivals, adapters)
        status = looked_up.status()
    finally:
        for engine in engines:
            engine.close()
    event(f"accepted: {status.num_accepted_tokens > 0}")
    event(f"rejected: {status.num_proposed_tokens > status.num_accepted_tokens}")
    event(f"preempted: {status.num_preemptions > 0}")
    event(f"aborted: {bool(found.aborted)}")


def compare(expected: Observed, found: Observed, key: str, arrival: Arrival) -> None:
    """An aborted answer is as long as its last step made it, and the beginning of the whole one."""
    pairs = list(zip(expected.chunks.get(key, []), found.chunks.get(key, []), strict=False))
    for one, other in pairs:
        assert one.token_ids == other.token_ids
        assert (one.text, one.logprobs, one.completion_tokens) == (
            other.text,
            other.logprobs,
            other.completion_tokens,
        )
        assert (one.prompt_tokens, one.finish_reason) == (other.prompt_tokens, other.finish_reason)
    if key in expected.aborted | found.aborted:
        return
    assert len(expected.chunks[key]) == len(found.chunks[key])
    one, other = pairs[-1]
    assert (one.probe is None) == (other.probe is None) == (not arrival.probe)
    if one.probe is not None and other.probe is not None:
        assert_close(one.probe, other.probe)


def assert_close(one: ProbeStates, other: ProbeStates) -> None:
    assert one.num_answer_tokens == other.num_answer_tokens
    for expected, found in zip(
        (one.prompt, one.answer, one.error), (other.prompt, other.answer, other.error), strict=True
    ):
        torch.testing.assert_close(
            torch.tensor(found), torch.tensor(expected), rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE
        )


def continue_answers(
    engine: Engine,
    plain: Engine,
    observed: Observed,
    arrivals: Sequence[Arrival],
    adapters: Sequence[AnyAdapter],
) -> None:
    """Prompts that begin with the answers find in the prefix cache what their tokens would compute."""
    prompts = {
        f"{key} again": [*arrival.prompt, *observed.tokens(str(key)), 70][: engine.max_context - 6]
        for key, arrival in enumerate(arrivals)
    }
    commands = [
        msgspec.structs.replace(
            request(f"{key} again", adapters[arrival.kind % len(adapters)], max_tokens=4),
            probe=True,
            probe_error=True,
        )
        for key, arrival in enumerate(arrivals)
    ]
    expected, found = (run_all(each, *commands, prompts=prompts) for each in (plain, engine))
    for key in prompts:
        assert expected[key].token_ids == found[key].token_ids
        assert_close(probe_of(expected[key]), probe_of(found[key]))


def probe_of(answer: Answer) -> ProbeStates:
    assert answer.last is not None
    assert answer.last.probe is not None
    return answer.last.probe


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(arrivals=ARRIVALS, shortage=SHORTAGES)
def test_any_mix_is_answered_as_without_lookup(
    arrivals: list[Arrival], shortage: dict[str, Any], tiny_llama: Path, adapters: list[AnyAdapter]
) -> None:
    check(tiny_llama, adapters, arrivals, shortage)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(arrivals=ARRIVALS, shortage=SHORTAGES)
def test_any_of_many_mixes_is_answered_as_without_lookup(
    arrivals: list[Arrival], shortage: dict[str, Any], tiny_llama: Path, adapters: list[AnyAdapter]
) -> None:
    check(tiny_llama, adapters, arrivals, shortage)


def copying(**sampling: Any) -> Generate:
    """An answer of three tokens that soon repeats its own passages."""
    options = {"max_tokens": 60, "temperature": 1.0, "seed": 3, "logit_bias": FEW, "ignore_eos": True}
    return Generate(
        "r", prompt="ABCABCABC", sampling=Sampling(**{**options, **sampling}), probe=True, probe_error=True
    )


def test_states_and_errors_of_accepted_tokens_count_once_with_the_same_bits(
    make_engine: Callable[..., Engine],
) -> None:
    plain, looked_up = (
        make_engine(prompt_lookup=lookup, batch_invariant=True, kernels="native") for lookup in (False, True)
    )
    expected, found = (run_all(each, copying(logprobs=2))["r"] for each in (plain, looked_up))
    assert looked_up.status().num_proposed_tokens > looked_up.status().num_accepted_tokens > 5
    assert plain.status().num_proposed_tokens == 0
    assert found.token_ids == expected.token_ids
    assert found.logprobs == expected.logprobs
    assert probe_of(found) == probe_of(expected)


def test_a_copy_needs_fewer_steps(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    engine.add(copying(temperature=0.0, logit_bias={70: 100.0}))
    num_steps = 0
    while not engine.is_idle:
        engine.step()
        num_steps += 1
    assert num_steps < 15


@pytest.mark.parametrize("num_requests", [24, 70])
def test_logits_are_computed_for_a_bounded_number_of_rows(
    num_requests: int, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without proposals, whatever the step computes."""
    options = {"batch_invariant": True, "kernels": "native", "max_running": num_requests}
    looked_up, plain = (make_engine(prompt_lookup=lookup, **options) for lookup in (True, False))
    commands = [
        msgspec.structs.replace(
            copying(seed=number, max_tokens=30, logit_bias={70: 100.0} if number % 4 else FEW),
            request_id=str(number),
        )
        for number in range(num_requests)
    ]
    expected = run_all(plain, *commands)
    counts, rows_of_steps = watch_logits(looked_up, monkeypatch)
    found = run_all(looked_up, *commands)
    assert max(rows_of_steps) > 64 >= max(counts)
    assert looked_up.status().num_proposed_tokens > looked_up.status().num_accepted_tokens > num_requests
    for key, answer in expected.items():
        assert found[key].token_ids == answer.token_ids
        assert probe_of(found[key]) == probe_of(answer)


def watch_logits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """The rows of each product with the head, and of each step."""
    counts: list[int] = []
    rows_of_steps: list[int] = []
    logits, forward = engine._runner.logits, engine._runner.forward

    def counted(hidden: torch.Tensor, rows: Sequence[int], slots: Sequence[int]) -> torch.Tensor:
        counts.append(len(rows))
        return logits(hidden, rows, slots)

    def watched(step: Step) -> torch.Tensor:
        if all(entry.request.num_answer_tokens for entry in step.scheduled):
            rows_of_steps.append(step.num_tokens)
        return forward(step)

    monkeypatch.setattr(engine._runner, "logits", counted)
    monkeypatch.setattr(engine._runner, "forward", watched)
    return counts, rows_of_steps


def test_a_proposal_on_which_an_adapter_overflows_changes_nothing(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values of a rejected token reach the states before it, if they are not finite."""
    engine = make_engine()
    expected = run_all(make_engine(prompt_lookup=False), copying())["r"]
    forward = engine._runner.forward

    def overflow_on_proposals(step: Step) -> torch.Tensor:
        hidden = forward(step)
        return hidden * torch.nan if any(entry.proposal for entry in step.scheduled) else hidden

    monkeypatch.setattr(engine._runner, "forward", overflow_on_proposals)
    found = run_all(engine, copying())["r"]
    assert found.error is None
    assert found.token_ids == expected.token_ids
    assert engine.status().num_preemptions == 1
    assert_close(probe_of(found), probe_of(expected))
