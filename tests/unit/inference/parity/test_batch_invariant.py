"""With `batch_invariant` an answer has the same bits in any company, in bf16 too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.config import EngineConfig
from tests.fixtures_engine import run_all
from tests.support.parity import blend, make_kinds, prompts_of, request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inference.engine import Engine
    from inference.protocol import AdapterBlend, AdapterRef, Generate


@pytest.fixture(scope="module")
def adapters(
    tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[AdapterRef | AdapterBlend | None]:
    kinds = make_kinds(tmp_path_factory.mktemp("kinds"), tiny_llama)
    return [None, blend((kinds["plain"], 0.5), (kinds["rslora"], 0.5)), *kinds.values()]


def asking(key: str, adapter: AdapterRef | AdapterBlend | None) -> Generate:
    command = request(key, adapter, max_tokens=5)
    return msgspec.structs.replace(command, sampling=msgspec.structs.replace(command.sampling, logprobs=5))


@pytest.mark.parametrize(
    "options", [{"dtype": "bfloat16"}, {"dtype": "float32"}, {"dtype": "bfloat16", "quantization": "int8"}]
)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 90), min_size=2, max_size=9),
    max_step_tokens=st.integers(16, 200),
    seed=st.integers(0, 99),
)
def test_an_answer_has_the_same_log_probabilities_alone_and_in_a_crowd(
    make_engine: Callable[..., Engine],
    adapters: Sequence[AdapterRef | AdapterBlend | None],
    options: dict[str, str],
    lengths: Sequence[int],
    max_step_tokens: int,
    seed: int,
) -> None:
    """Prompts are cut into chunks that depend on the company, and the prefix cache is off and on."""
    crowd = make_engine(batch_invariant=True, max_step_tokens=max_step_tokens, **options)
    alone = make_engine(batch_invariant=True, prefix_sharing="off", **options)
    prompts = prompts_of(lengths)
    commands = [asking(key, adapters[(seed + n) % len(adapters)]) for n, key in enumerate(prompts)]
    together = run_all(crowd, *commands, prompts=prompts)
    for command in commands:
        key = command.request_id
        answer = run_all(alone, command, prompts={key: prompts[key]})[key]
        assert answer.token_ids == together[key].token_ids
        assert answer.logprobs == together[key].logprobs


@pytest.mark.parametrize("others", [{"kernels": "portable"}, {"device": "cuda"}])
def test_it_is_refused_where_it_cannot_be_kept(tiny_llama: Path, others: dict[str, str | int]) -> None:
    with pytest.raises(ValueError, match="batch_invariant needs"):
        EngineConfig(tiny_llama, batch_invariant=True, **others)
