"""How far an engine in bf16 may be from fp32: every kind of adapter in one batch, position by position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tests.fixtures_engine import Oracle, run_all
from tests.support.parity import blend, make_kinds, prompts_of, request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from inference.engine import Engine
    from inference.protocol import TokenLogprobs

MAX_ERROR, MEAN_WORST = 0.12, 0.03
"""Of a log-probability, in units of how far the logits of its position spread (largest minus smallest): of
any, and of the answers' worst ones on average.
"""


def worst_error(places: Sequence[TokenLogprobs], logits: torch.Tensor) -> float:
    """`logits` [num_places, vocab] of the reference."""
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    expected = logits.log_softmax(dim=1)
    return max(
        float(abs(token.logprob - expected[row, token.token_id]) / spread[row])
        for row, place in enumerate(places)
        for token in place.top
    )


def test_log_probabilities_stay_within_the_bound(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    kinds, oracle = make_kinds(tmp_path, tiny_llama), Oracle(tiny_llama)
    mix = blend((kinds["plain"], 0.5), (kinds["rslora"], 0.5))
    adapters = [None, mix, *kinds.values()]
    prompts = prompts_of(range(9, 9 + 2 * len(adapters), 2))
    commands = []
    for key, adapter in zip(prompts, adapters, strict=True):
        command = request(key, adapter, max_tokens=6)
        sampling = msgspec.structs.replace(command.sampling, logprobs=20)
        commands.append(msgspec.structs.replace(command, sampling=sampling))
    answers = run_all(make_engine(dtype="bfloat16"), *commands, prompts=prompts)
    errors = []
    for (key, prompt), adapter in zip(prompts.items(), adapters, strict=True):
        answer = answers[key]
        logits = oracle.logits([*prompt, *answer.token_ids], adapter)[len(prompt) - 1 : -1]
        errors.append(worst_error(answer.logprobs, logits))
        assert errors[-1] < MAX_ERROR, adapter
    assert sum(errors) / len(errors) < MEAN_WORST
