"""Activated LoRA (aLoRA) against PEFT, fp32: inactive before its invocation, whose prefix is the base's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inference.errors import AdapterBlendError, AdapterNotInvokedError
from tests.fixtures_engine import ALL_LINEAR, edit_adapter, load_adapters, make_adapter, run_all
from tests.support.parity import blend, check_batch, make_kinds, prompts_of, request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inference.engine import Engine
    from inference.protocol import AdapterRef
    from tests.fixtures_engine import Oracle

FIRST, SECOND = [11, 12, 13], [14]


@pytest.fixture(scope="module")
def activated(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    root = tmp_path_factory.mktemp("activated")
    return [
        make_adapter(root / "first", tiny_llama, rank=5, seed=1, alora_invocation_tokens=FIRST),
        make_adapter(
            root / "second",
            tiny_llama,
            rank=3,
            targets=ALL_LINEAR[:4],
            seed=2,
            use_rslora=True,
            alora_invocation_tokens=SECOND,
        ),
    ]


def invoked(lengths: Sequence[int], invocation: Sequence[int]) -> dict[str, list[int]]:
    """Prompts with the invocation at different places: at first, last, in the middle, and twice."""
    prompts = prompts_of(lengths)
    for number, prompt in enumerate(prompts.values()):
        for place in {number % 4 * len(prompt) // 3, len(prompt) // 4 if number % 2 else len(prompt)}:
            prompt[place:place] = invocation
    return prompts


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_step_tokens": 7, "kv_block_size": 4},
        {"kv_budget_bytes": 40 * 2048, "kv_block_size": 4},
        {"num_adapter_slots": 2, "num_adapter_rows": 10, "max_rank": 10, "adapter_budget_bytes": 90_000},
        {"kernels": "portable", "kv_block_size": 1},
    ],
    ids=["plenty", "chunks", "preemption", "eviction", "plain torch"],
)
def test_activated_adapters_in_a_mixed_batch(
    limits: dict[str, int | str],
    activated: list[AdapterRef],
    llama_adapters: list[AdapterRef],
    llama_oracle: Oracle,
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(**limits)
    adapters = [activated[0], None, activated[1], llama_adapters[0]]
    load_adapters(engine, *activated[:2], llama_adapters[0])
    prompts = invoked([20, 33, 8, 25, 40, 12, 30, 22, 9, 17], [*FIRST, *SECOND])
    check_batch(engine, llama_oracle, prompts, adapters, max_tokens=16)
    if "kv_budget_bytes" in limits:
        assert engine.status().num_preemptions > 0


def test_the_prefix_before_the_invocation_is_shared_with_the_base_and_other_adapters(
    activated: list[AdapterRef],
    llama_adapters: list[AdapterRef],
    llama_oracle: Oracle,
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(kv_block_size=4)
    (prefix,) = prompts_of([42]).values()
    turns = [
        (None, prefix, 0),
        (activated[0], [*prefix, *FIRST, 50], 40),
        (activated[1], [*prefix, *SECOND, 50], 40),
        (activated[0], [*prefix, *FIRST, 50, 51, 52], 44),  # with its own blocks after the invocation
        (activated[1], [*prefix, *FIRST, 50, 51, *SECOND], 40),  # that are no other adapter's
        (activated[0], [*prefix, *FIRST, 50, 51, *FIRST, 60], 44),  # the base's up to a later invocation
        (None, [*prefix, *FIRST, 50, 51, 52], 44),
        (llama_adapters[0], [*prefix, *FIRST], 0),
    ]
    for adapter, prompt, num_cached in turns:
        answer = run_all(engine, request("r", adapter, max_tokens=5), prompts={"r": prompt})["r"]
        assert answer.last.cached_prompt_tokens == num_cached
        llama_oracle.check_greedy(prompt, answer.token_ids, adapter)


def test_a_prompt_without_the_invocation_is_refused_and_the_others_are_answered(
    activated: list[AdapterRef], llama_oracle: Oracle, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine()
    prompts = prompts_of([9, 12, 5])
    prompts["1"] += FIRST
    answers = run_all(engine, *(request(key, activated[0]) for key in prompts), prompts=prompts)
    assert isinstance(answers["0"].error, AdapterNotInvokedError)
    assert isinstance(answers["2"].error, AdapterNotInvokedError)
    llama_oracle.check_greedy(prompts["1"], answers["1"].token_ids, activated[0])


def test_an_activated_adapter_cannot_be_blended(
    activated: list[AdapterRef], llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    mix = blend((activated[0], 0.5), (llama_adapters[0], 0.5))
    answer = run_all(make_engine(), request("r", mix), prompts={"r": [5, *FIRST]})["r"]
    assert isinstance(answer.error, AdapterBlendError)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"alora_invocation_tokens": []}, "not a list of 1 to 256"),
        ({"alora_invocation_tokens": [3, -1]}, "not an integer from 0"),
        ({"alora_invocation_tokens": [3], "use_dora": True}, "use_dora"),
    ],
)
def test_a_malformed_invocation_is_refused_by_name(
    changes: dict[str, object],
    named: str,
    tiny_llama: Path,
    tmp_path: Path,
    make_engine: Callable[..., Engine],
) -> None:
    kind = "dora" if "use_dora" in changes else "plain"
    adapter = edit_adapter(make_kinds(tmp_path, tiny_llama, [kind])[kind], **changes)
    answer = run_all(make_engine(), request("r", adapter), prompts={"r": [5, 3]})["r"]
    assert named in str(answer.error)
