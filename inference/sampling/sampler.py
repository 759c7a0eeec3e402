"""Samples the next tokens of a batch from its logits.

Every request has its own stream of random numbers, independent of the other requests in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference.errors import GrammarTooComplexError
from inference.kernels.portable import PortableKernels
from inference.sampling.draw import draw
from inference.sampling.logprobs import gather_logprobs
from inference.sampling.penalties import add_bias, penalise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from inference.protocol import TokenLogprobs
    from inference.sampling.state import SamplingState
    from inference.sampling.vocabulary import Vocabulary

    Argmax = Callable[[Tensor], tuple[Tensor, Tensor]]

_PLAIN = PortableKernels()
INVALID_TOKEN = -1
"""Token id where the best logit is NaN or infinite, or the grammar failed."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A request's next token, or `INVALID_TOKEN`; with log-probabilities if requested."""

    token_id: int
    logprobs: TokenLogprobs | None = None


def sample_tokens(
    logits: Tensor,
    states: Sequence[SamplingState],
    vocabulary: Vocabulary,
    argmax: Argmax = _PLAIN.argmax,
) -> list[SampledToken]:
    """The next token of each row of `logits` [n, vocab], which are changed in place if they are fp32.

    A row that contains NaN or plus infinity, or only minus infinity, gives `INVALID_TOKEN`; so does a request
    whose grammar fails, which sets its state's `error`.

    The order of operations is vLLM's (`vllm.v1.sample.sampler.Sampler`): log-probabilities of the
    model's unchanged logits; the grammar's mask; the end tokens' mask before `min_tokens`; logit bias;
    repetition, frequency and presence penalty. Greedy requests then use the best token; the others divide by
    the temperature and truncate by min-p, top-k and top-p.

    The random number of a draw depends only on seed and position, and no row's arithmetic depends on another
    row.
    """
    if all(state.is_plain_greedy for state in states):
        return [SampledToken(token_id) for token_id in _best(logits, argmax)]
    logits = logits.float()
    with_logprobs = [row for row, state in enumerate(states) if state.sampling.logprobs is not None]
    original = logits[with_logprobs] if with_logprobs else None
    _adjust(logits, states, vocabulary)
    token_ids = _sample(logits, states, argmax)
    tokens = [SampledToken(token_id) for token_id in token_ids]
    if original is not None:
        sampled = [max(0, token_ids[row]) for row in with_logprobs]  # a failed request returns no token
        num_top = [states[row].sampling.logprobs or 0 for row in with_logprobs]
        found = gather_logprobs(original, sampled, num_top, vocabulary.token_bytes)
        for row, logprobs in zip(with_logprobs, found, strict=True):
            tokens[row] = SampledToken(token_ids[row], logprobs)
    return tokens


def _best(logits: Tensor, argmax: Argmax) -> list[int]:
    values, token_ids = argmax(logits)
    pairs = zip(torch.isfinite(values).tolist(), token_ids.tolist(), strict=True)
    return [token_id if is_finite else INVALID_TOKEN for is_finite, token_id in pairs]


def _sample(logits: Tensor, states: Sequence[SamplingState], argmax: Argmax) -> list[int]:
    token_ids = _best(logits, argmax)
    drawing = [
        row for row, state in enumerate(states) if token_ids[row] != INVALID_TOKEN and not state.is_greedy
    ]
    if drawing:
        drawn = draw(
            logits,
            drawing,
            [states[row].sampling for row in drawing],
            [states[row].random_number for row in drawing],
        )
        for row, token_id in zip(drawing, drawn, strict=True):
            token_ids[row] = token_id
    return token_ids


def _adjust(logits: Tensor, states: Sequence[SamplingState], vocabulary: Vocabulary) -> None:
    adjusted = [(row, state) for row, state in enumerate(states) if state.is_adjusted]
    constrained = [(row, state) for row, state in adjusted if state.grammar is not None]
    if constrained:
        _constrain(logits, constrained)
    unfinished = [row for row, state in adjusted if state.forbids_end]
    if unfinished:
        ends = torch.tensor(sorted(vocabulary.end_token_ids), dtype=torch.long)
        logits[torch.tensor(unfinished).unsqueeze(1), ends] = -torch.inf
    biased = [(row, state.sampling.logit_bias) for row, state in adjusted if state.sampling.logit_bias]
    if biased:
        add_bias(logits, *zip(*biased, strict=True))
    penalised = [(row, state.sampling, state.counts) for row, state in adjusted if state.counts is not None]
    if penalised:
        penalise(logits, *zip(*penalised, strict=True))


def _constrain(logits: Tensor, rows: Sequence[tuple[int, SamplingState]]) -> None:
    """Mask the tokens that the grammars do not allow; all tokens where a grammar fails."""
    vocab = logits.shape[1]
    allowed = np.zeros((len(rows), vocab), dtype=np.uint8)
    for position, (_, state) in enumerate(rows):
        if state.grammar is None:
            continue
        try:
            bits = np.frombuffer(state.grammar.allowed(), dtype=np.uint8)
        except GrammarTooComplexError as error:
            state.error = error
        else:
            allowed[position] = np.unpackbits(bits, count=vocab, bitorder="little")
    index = torch.tensor([row for row, _ in rows], device=logits.device)
    forbidden = torch.from_numpy(allowed == 0).to(logits.device)
    logits[index] = logits[index].masked_fill_(forbidden, -torch.inf)
