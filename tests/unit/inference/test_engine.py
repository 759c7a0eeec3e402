"""Guarantees of the engine other than correct tokens."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from inference.engine import Engine
from inference.errors import (
    AdapterDigestMismatchError,
    AdapterFileMissingError,
    ContextLengthExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    NumericalError,
    OverloadedError,
)
from inference.lora.adapter import AdapterLoader
from inference.outputs import Failure
from inference.protocol import AdapterRef, Generate, Message, Sampling
from tests.fixtures_engine import (
    drain,
    greedy,
    make_adapter,
    read_tensors,
    rewrite_tensors,
    run_all,
    tiny_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.lora.adapter import Adapter
    from inference.scheduling.step import Step


def test_an_answer_ends_at_eos_with_reason_stop(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    sampling = Sampling(max_tokens=400, temperature=3.0, seed=1)
    answer = run_all(engine, Generate("r", prompt="hello", sampling=sampling))["r"]
    assert answer.last.finish_reason == "stop"
    assert answer.token_ids[-1] in engine.tokenizer.eos_token_ids
    assert answer.last.completion_tokens == len(answer.token_ids)


def test_an_answer_ends_at_max_tokens_with_reason_length(make_engine: Callable[..., Engine]) -> None:
    answer = run_all(make_engine(), greedy("r", "abc", max_tokens=5))["r"]
    assert (answer.last.finish_reason, answer.last.prompt_tokens, answer.last.completion_tokens) == (
        "length",
        3,
        5,
    )


def test_an_answer_ends_where_the_context_does(make_engine: Callable[..., Engine]) -> None:
    answer = run_all(make_engine(max_context=20), greedy("r", "x" * 12, max_tokens=100))["r"]
    assert answer.last.completion_tokens == 8


def test_the_whole_kv_cache_can_hold_one_sequence(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(kv_budget_bytes=9 * 2304, kv_block_size=4)
    assert engine.max_context == 32
    answer = run_all(engine, greedy("r", "x" * 31, max_tokens=100))["r"]
    assert answer.last.completion_tokens == 1


def test_token_ids_beyond_the_vocabulary_are_refused(make_engine: Callable[..., Engine]) -> None:
    """A tokenizer may know more tokens than the model; the last of an answer is looked up by a kernel."""
    engine = make_engine()
    size = engine.vocabulary.size
    with pytest.raises(InvalidRequestError, match=f"token {size}.*{size - 1}"):
        engine.add(greedy("r", "x"), [1, size, 2])
    with pytest.raises(InvalidRequestError, match=f"token {size}"):
        engine.embed("e", [1], [2, size], None)
    engine.embed("e", [1], [2, size - 1], None)
    drain(engine)
    assert engine.is_idle


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(max_context=20)
    with pytest.raises(ContextLengthExceededError, match=r"25 tokens.* 20") as refusal:
        engine.add(greedy("r", "x" * 25))
    assert (refusal.value.num_prompt_tokens, refusal.value.max_context) == (25, 20)
    assert engine.is_idle


def test_stop_strings_end_the_answer_and_are_not_shown(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    full = run_all(engine, greedy("r", "abc", max_tokens=30))["r"].text
    stop = full[10:13]
    sampling = Sampling(max_tokens=30, temperature=0.0, stop=(stop,), ignore_eos=True)
    answer = run_all(engine, Generate("r", prompt="abc", sampling=sampling))["r"]
    assert answer.text == full[: full.index(stop)]
    assert answer.last.finish_reason == "stop"


def test_without_a_seed_answers_differ(make_engine: Callable[..., Engine]) -> None:
    commands = [Generate(str(i), prompt="dice", sampling=Sampling(max_tokens=20)) for i in range(2)]
    answers = run_all(make_engine(), *commands)
    assert answers["0"].token_ids != answers["1"].token_ids


def test_streamed_text_equals_the_decoded_tokens(make_engine: Callable[..., Engine]) -> None:
    """Random tokens of a byte-level vocabulary: mostly broken UTF-8, neither lost nor doubled."""
    engine = make_engine()
    answer = run_all(engine, Generate("r", prompt="é", sampling=Sampling(max_tokens=60, ignore_eos=True)))[
        "r"
    ]
    assert answer.text.replace("\ufffd", "") == engine.tokenizer.decode(answer.token_ids).replace(
        "\ufffd", ""
    )


def test_abort_frees_everything_and_reports_what_was_generated(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(max_running=2)
    for i in range(4):
        engine.add(greedy(str(i), "abcdef", adapter=llama_adapters[0], max_tokens=50))
    seen = 0
    while seen < 10:
        seen += len(engine.step())
    chunks = [engine.abort(str(i)) for i in range(4)]
    assert [chunk.finish_reason for chunk in chunks] == ["abort"] * 4
    assert sum(chunk.completion_tokens for chunk in chunks) == seen
    assert engine.abort("0") is None
    assert engine.is_idle
    assert engine.status().kv_blocks_used == 0


def test_a_full_waiting_line_is_refused_as_retryable(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_running=1, max_waiting=2)
    for i in range(2):
        engine.add(greedy(str(i)))
    with pytest.raises(OverloadedError) as refusal:
        engine.add(greedy("2"))
    assert refusal.value.is_retryable
    assert set(drain(engine)) == {"0", "1"}


def test_prompts_that_wait_have_a_bound_in_tokens(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_running=1, max_waiting_tokens=10)
    engine.add(greedy("longer than that, and alone", "x" * 20))
    with pytest.raises(OverloadedError, match="1 requests with 20 prompt tokens"):
        engine.add(greedy("refused", "x"))
    engine.step()
    engine.add(greedy("accepted", "x"))
    assert set(drain(engine)) == {"longer than that, and alone", "accepted"}


def test_a_payer_who_fills_the_line_gives_way_to_the_others(make_engine: Callable[..., Engine]) -> None:
    """Its youngest goes, until it takes no more of the line than who comes would."""
    engine = make_engine(max_running=1, max_waiting=4)
    engine.add(greedy("runs"))
    engine.step()
    for i in range(4):
        engine.add(greedy(f"hot{i}", payer="hot"))
    for i in range(2):
        engine.add(greedy(f"other{i}", payer="other"))
    for payer in ("hot", "other"):
        with pytest.raises(OverloadedError):
            engine.add(greedy("refused", payer=payer))
    answers = drain(engine)
    crowded_out = {key for key, answer in answers.items() if answer.error}
    assert crowded_out == {"hot2", "hot3"}
    assert all(isinstance(answers[key].error, OverloadedError) for key in crowded_out)


def test_a_payer_who_fills_the_line_with_tokens_gives_way_too(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_running=1, max_waiting_tokens=100)
    engine.add(greedy("runs"))
    engine.step()
    for i in range(3):
        engine.add(greedy(f"hot{i}", "x" * 30, payer="hot"))
    engine.add(greedy("other", "x" * 40, payer="other"))
    answers = drain(engine)
    assert {key for key, answer in answers.items() if answer.error} == {"hot2"}


def test_no_request_is_shed_for_a_lower_class(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_running=1, max_waiting=2)
    engine.add(greedy("runs"))
    engine.step()
    for i in range(2):
        engine.add(greedy(f"hot{i}", payer="hot"))
    with pytest.raises(OverloadedError):
        engine.add(greedy("refused", payer="other", priority=-1))
    assert not any(answer.error for answer in drain(engine).values())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_request_ends_when_its_deadline_has_passed(tiny_llama: Path) -> None:
    clock = Clock()
    engine = Engine(tiny_config(tiny_llama, max_running=1), clock=clock)
    engine.add(greedy("runs", max_tokens=50, deadline_ms=2000))
    engine.add(greedy("waits", max_tokens=2, deadline_ms=1000))
    engine.add(greedy("stays", max_tokens=2))
    engine.step()
    assert engine.seconds_to_deadline == 1.0
    clock.now = 1.0
    failed = [output for output in engine.step() if isinstance(output, Failure)]
    assert [(each.request_id, each.error.code) for each in failed] == [("waits", "deadline_exceeded")]
    assert failed[0].error.is_retryable
    clock.now = 2.0
    answers = drain(engine)
    assert isinstance(answers["runs"].error, DeadlineExceededError)
    assert answers["stays"].last.finish_reason == "length"
    assert engine.seconds_to_deadline is None
    engine.close()


def test_a_deadline_passes_while_everybody_waits_for_an_adapter(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load, load = threading.Event(), AdapterLoader.load

    def load_later(*arguments: Any) -> Adapter:
        may_load.wait(30)
        return load(*arguments)

    monkeypatch.setattr(AdapterLoader, "load", load_later)
    answers = run_all(make_engine(), greedy("r", adapter=llama_adapters[0], deadline_ms=50))
    may_load.set()
    assert isinstance(answers["r"].error, DeadlineExceededError)


def test_an_adapter_is_loaded_while_its_request_waits_for_a_place(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(max_running=1)
    engine.add(greedy("runs", max_tokens=100_000))
    engine.step()
    engine.add(greedy("waits", adapter=llama_adapters[0]))
    engine.step()
    engine._adapters.registry._pool.shutdown(wait=True)
    engine.step()
    assert engine.status().resident_adapters == [llama_adapters[0].digest]
    assert engine.status().num_waiting == 1
    for key in ("runs", "waits"):
        engine.abort(key)


def test_a_request_id_in_use_is_refused(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    engine.add(greedy("same"))
    with pytest.raises(InvalidRequestError, match="in use"):
        engine.add(greedy("same"))
    drain(engine)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=0),
        Sampling(temperature=-1.0),
        Sampling(top_p=0.0),
        Sampling(stop=("",)),
        Sampling(max_tokens=2, min_tokens=3),
        Sampling(logit_bias={10_000: 1.0}),
        Sampling(logit_bias={1: 101.0}),
        Sampling(repetition_penalty=0.0),
        Sampling(logprobs=21),
    ],
)
def test_sampling_out_of_range_is_refused(sampling: Sampling, make_engine: Callable[..., Engine]) -> None:
    with pytest.raises(InvalidRequestError, match="sampling"):
        make_engine().add(Generate("r", prompt="x", sampling=sampling))


def test_messages_and_prompt_exclude_each_other(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    for command in (Generate("r"), Generate("r", prompt="x", messages=(Message("user", "y"),))):
        with pytest.raises(InvalidRequestError, match="either"):
            engine.add(command)


def test_chat_messages_go_through_the_models_template(make_engine: Callable[..., Engine]) -> None:
    tokenizer = make_engine().tokenizer
    messages = (Message("system", "S"), Message("user", "U"))
    by_hand = tokenizer.encode_prompt((), "<|system|>S<|end|><|user|>U<|end|><|assistant|>")
    assert tokenizer.encode_prompt(messages, None) == by_hand


def test_a_changed_folder_is_refused_by_its_digest(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    ref = make_adapter(tmp_path / "a", tiny_llama)
    changed = rewrite_tensors(ref, {name: tensor * 2 for name, tensor in read_tensors(ref).items()})
    answers = run_all(make_engine(), greedy("old", adapter=ref), greedy("new", adapter=changed))
    assert isinstance(answers["old"].error, AdapterDigestMismatchError)
    assert answers["new"].last.finish_reason == "length"


def test_an_adapter_replaced_under_its_path_never_leaks(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine()
    old = make_adapter(tmp_path / "a", tiny_llama, seed=1)
    before = run_all(engine, greedy("r", adapter=old))["r"].token_ids
    new = make_adapter(tmp_path / "a", tiny_llama, seed=2)
    fresh = run_all(make_engine(), greedy("r", adapter=new))["r"].token_ids
    answers = run_all(engine, greedy("old", adapter=old), greedy("new", adapter=new))
    assert answers["old"].token_ids == before
    assert answers["new"].token_ids == fresh != before


def test_a_bad_adapter_fails_its_own_requests_only(
    llama_adapters: list[AdapterRef], tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    gone = AdapterRef("0" * 64, str(tmp_path / "gone"))
    answers = run_all(
        make_engine(), greedy("bad", adapter=gone), greedy("base"), greedy("good", adapter=llama_adapters[0])
    )
    assert isinstance(answers["bad"].error, AdapterFileMissingError)
    assert answers["base"].last.finish_reason == answers["good"].last.finish_reason == "length"


def test_an_overflowing_adapter_fails_alone_and_leaves_nothing_behind(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """Finite weights that drive states to infinity, in a mixed batch and in reused kv_blocks."""
    ref = make_adapter(tmp_path / "a", tiny_llama)
    huge = rewrite_tensors(ref, {name: torch.full_like(t, 1e18) for name, t in read_tensors(ref).items()})
    engine = make_engine(kv_budget_bytes=30 * 2048, kv_block_size=4)
    innocent = greedy("i", "x" * 9, max_tokens=30)
    expected = run_all(engine, innocent)["i"].token_ids
    answers = run_all(engine, greedy("h", "y" * 40, adapter=huge, probe=True), innocent)
    assert isinstance(answers["h"].error, NumericalError)
    assert answers["i"].token_ids == expected
    for _ in range(3):
        assert run_all(engine, innocent)["i"].token_ids == expected


def test_embedding_under_an_overflowing_adapter_is_an_error(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    ref = make_adapter(tmp_path / "a", tiny_llama)
    huge = rewrite_tensors(ref, {name: torch.full_like(t, 1e18) for name, t in read_tensors(ref).items()})
    engine = make_engine()
    engine.embed("e", [10, 11], [12], huge)
    assert isinstance(drain(engine)["e"].error, NumericalError)


def test_the_probe_holds_finite_numbers_for_an_answer_of_one_token(
    make_engine: Callable[..., Engine],
) -> None:
    probe = run_all(make_engine(), greedy("r", max_tokens=1, probe=True))["r"].last.probe
    assert probe.num_answer_tokens == 1
    assert all(map(math.isfinite, probe.answer))


def test_a_probe_that_is_not_finite_on_the_prompt_alone_is_never_delivered(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits are finite, so nothing but the probe could tell."""
    engine = make_engine()
    forward = engine._runner.forward

    def overflow_at_first(step: Step) -> torch.Tensor:
        hidden = forward(step)
        if len(hidden) > 1:
            hidden[0] = math.inf
        return hidden

    monkeypatch.setattr(engine._runner, "forward", overflow_at_first)
    assert isinstance(run_all(engine, greedy("r", "abc", probe=True))["r"].error, NumericalError)
    engine.add(greedy("a", "abc", probe=True))
    engine.step()
    assert engine.abort("a").probe is None


def test_a_load_refused_at_once_does_not_stall_those_behind_it(
    llama_adapters: list[AdapterRef], tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """The same digest from two folders, the first of them empty: no load ends that could wake the engine."""
    engine, good = make_engine(), llama_adapters[0]
    engine.add(greedy("bad", adapter=AdapterRef(good.digest, str(tmp_path))))
    engine.add(greedy("good", adapter=good))
    (failure,) = engine.step()
    assert isinstance(failure.error, AdapterFileMissingError)
    assert not engine.is_stalled
    assert drain(engine)["good"].last.finish_reason == "length"


def test_a_refused_adapter_is_read_once(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = make_adapter(tmp_path / "a", tiny_llama)
    rewrite_tensors(ref, {name: tensor * 2 for name, tensor in read_tensors(ref).items()})
    read: list[Path] = []
    load = AdapterLoader.load

    def note(loader: AdapterLoader, folder: Path, *rest: Any) -> Adapter:
        read.append(folder)
        return load(loader, folder, *rest)

    monkeypatch.setattr(AdapterLoader, "load", note)
    engine = make_engine()
    answers = run_all(engine, greedy("1", adapter=ref), greedy("2", adapter=ref))
    assert {type(answer.error) for answer in answers.values()} == {AdapterDigestMismatchError}
    assert len(read) == 1
    assert not engine._adapters.registry._loads  # and no load without a request


def test_adapters_in_slots_do_not_keep_a_cold_one_out_of_the_host_cache(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """The cache has room for one adapter and half a load, and the hot one always has a request waiting."""
    hot, cold = (make_adapter(tmp_path / name, tiny_llama, seed=seed) for seed, name in enumerate("hc"))
    size = (tmp_path / "h" / "adapter_model.safetensors").stat().st_size
    engine = make_engine(max_running=2, adapter_budget_bytes=int(2.5 * size))
    for i in range(4):
        engine.add(greedy(f"hot{i}", adapter=hot, max_tokens=8))
    engine.add(greedy("cold", adapter=cold, max_tokens=8))
    num_hot, num_after = 4, 0
    for output in engine.run():
        assert num_hot < 200
        num_after += output.request_id == "cold"
        if output.finish_reason and output.request_id != "cold" and not num_after:
            engine.add(greedy(f"hot{num_hot}", adapter=hot, max_tokens=8))
            num_hot += 1
    assert num_after == 8


def test_a_hot_adapter_does_not_shut_out_the_others(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    """One slot, and a hot adapter with steady traffic: the other's requests still get their turn."""
    engine = make_engine(max_running=2, num_adapter_slots=1)
    hot, cold = llama_adapters[0], llama_adapters[1]
    for i in range(4):
        engine.add(greedy(f"hot{i}", adapter=hot, max_tokens=8))
    engine.add(greedy("cold", adapter=cold, max_tokens=8))
    num_hot = 4
    finished: list[str] = []
    for output in engine.run():
        if output.finish_reason and output.request_id.startswith("hot") and "cold" not in finished:
            engine.add(greedy(f"hot{num_hot}", adapter=hot, max_tokens=8))
            num_hot += 1
        if output.finish_reason:
            finished.append(output.request_id)
    assert finished.index("cold") <= 6


def test_an_adapter_that_is_hot_in_its_slot_is_not_read_again_when_it_loses_it(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slots, room for three on the host; others come and go, the hot one is used between all of them."""
    hot, *others = (make_adapter(tmp_path / str(seed), tiny_llama, seed=seed) for seed in range(6))
    size = (tmp_path / "0" / "adapter_model.safetensors").stat().st_size
    read: list[str] = []
    load = AdapterLoader.load

    def note(loader: AdapterLoader, folder: Path, digest: str, *rest: Any) -> Adapter:
        read.append(digest)
        return load(loader, folder, digest, *rest)

    monkeypatch.setattr(AdapterLoader, "load", note)
    engine = make_engine(num_adapter_slots=2, adapter_budget_bytes=int(4.5 * size))
    for other in others:
        run_all(engine, greedy("h", adapter=hot, max_tokens=1))
        run_all(engine, greedy("o", adapter=other, max_tokens=1))
    run_all(engine, greedy("o", adapter=others[0], max_tokens=1))  # now it loses its slot
    assert hot.digest not in engine.status().active_adapters
    run_all(engine, greedy("h", adapter=hot, max_tokens=1))
    assert read.count(hot.digest) == 1
