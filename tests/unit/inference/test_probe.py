from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from inference.kernels.portable import PortableKernels
from inference.probe import TOP_TOKENS, ErrorProbe, ProbeSums

if TYPE_CHECKING:
    from torch import Tensor

PORTABLE = PortableKernels()


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


def error_probe(embeddings: Tensor) -> ErrorProbe:
    """With the output `embeddings` [vocab, hidden]."""
    head: Any = SimpleNamespace(
        top_probabilities=PORTABLE.top_probabilities,
        sum_outputs=lambda weights, token_ids: PORTABLE.sum_rows(weights, token_ids, embeddings),
    )
    return ErrorProbe(head)


@pytest.mark.parametrize("asking", [(0,), (1,), (0, 2), (0, 1, 3), (0, 1, 2, 3)])
def test_errors_are_of_those_who_ask_in_any_company(asking: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    embeddings, logits, sampled = torch.randn(20, 6), torch.randn(4, 20), [3, 19, 0, 3]
    errors = error_probe(embeddings)
    probes = [ProbeSums(1) if place in asking else None for place in range(4)]
    likely = errors.likely_tokens(probes, logits)
    assert likely is not None
    errors.add(likely, sampled)
    probabilities, token_ids = logits.softmax(dim=1).topk(TOP_TOKENS, dim=1)
    expected = torch.einsum("nk,nkh->nh", probabilities, embeddings[token_ids]) - embeddings[sampled]
    for place, probe in enumerate(probes):
        if probe is not None:
            assert probe.error is not None
            assert torch.allclose(probe.error, expected[place], atol=1e-6)


def test_states_one_by_one_add_up_to_those_of_a_chunk() -> None:
    """Also where a preempted request computes some of them again."""
    states = torch.randn(7, 3)
    single, chunk = ProbeSums(3), ProbeSums(3)
    chunk.add(states, 0)
    for position in (0, 1, 2, 3, 4, 2, 3, 4, 5, 6):
        single.add_one(states[position], position)
    assert single.num_seen == chunk.num_seen == 7
    for found, expected in ((single.prompt, chunk.prompt), (single.answer, chunk.answer)):
        assert found is not None
        assert expected is not None
        assert torch.allclose(found, expected)


def test_before_the_prompt_was_seen_there_is_no_probe() -> None:
    with pytest.raises(ValueError, match="not been computed"):
        ProbeSums(3).finish(0)
