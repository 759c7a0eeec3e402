from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.probe import TOP_TOKENS, ErrorProbe, ProbeSums, top_tokens


@given(rows=st.integers(1, 4), vocab=st.sampled_from([5, 256, 2048, 2049, 4096]), seed=st.integers(0, 99))
def test_the_likeliest_are_those_of_topk(rows: int, vocab: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.stack([torch.randperm(vocab).float() for _ in range(rows)])
    values, token_ids = top_tokens(logits)
    expected = logits.topk(min(TOP_TOKENS, vocab), dim=1)
    assert torch.equal(values, expected.values)
    assert torch.equal(token_ids, expected.indices)


def test_all_in_one_block_and_equal_values_are_found_too() -> None:
    logits = torch.zeros(1, 4096)
    logits[0, 300:310] = 2.0
    values, token_ids = top_tokens(logits)
    assert values.tolist() == [[2.0] * TOP_TOKENS]
    assert len(set(token_ids[0].tolist())) == TOP_TOKENS
    assert all(300 <= token < 310 for token in token_ids[0].tolist())


def test_errors_add_up_and_come_only_with_an_answer() -> None:
    probe = ProbeSums(1)
    probe.add(torch.tensor([[1.0, 2.0]]), 0)
    assert probe.finish(0).error is None
    for _ in range(2):
        probe.add_error(torch.tensor([0.5, -1.0]))
    states = probe.finish(1)
    assert (states.answer, states.error) == ([1.0, 2.0], [1.0, -2.0])
    assert states.is_finite
    probe.add_error(torch.tensor([float("inf"), 0.0]))
    assert not probe.finish(1).is_finite


@pytest.mark.parametrize("asking", [(0,), (1,), (0, 2), (0, 1, 3), (0, 1, 2, 3)])
def test_errors_are_of_those_who_ask_in_any_company(asking: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    outputs: Any = SimpleNamespace(output_rows=torch.randn(20, 6).__getitem__)
    errors, logits = ErrorProbe(outputs), torch.randn(4, 20)
    probes = [ProbeSums(1) if place in asking else None for place in range(4)]
    found = errors.expected_outputs(probes, logits)
    assert found is not None
    for place, row in zip(asking, found.outputs, strict=True):
        alone = errors.expected_outputs([probes[place]], logits[[place]])
        assert alone is not None
        assert torch.allclose(row, alone.outputs[0])


def test_before_the_prompt_was_seen_there_is_no_probe() -> None:
    with pytest.raises(ValueError, match="not been computed"):
        ProbeSums(3).finish(0)
