"""From logits to tokens. Every request draws from its own stream of random numbers, whoever else is in the
batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference.errors import GrammarTooComplexError
from inference.kernels.portable import PortableKernels
from inference.sampling.draw import draw
from inference.sampling.logprobs import take_logprobs
from inference.sampling.penalties import add_bias, penalise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from inference.protocol import TokenLogprobs
    from inference.sampling.state import SamplingState
    from inference.sampling.vocabulary import Vocabulary

    Argmax = Callable[[Tensor], tuple[Tensor, Tensor]]

_PLAIN = PortableKernels()
NOT_FINITE = -1  # stands for a token where the best logit is NaN or infinite, or a grammar failed


@dataclass(frozen=True, slots=True)
class Choice:
    """A request's next token, or `NOT_FINITE`; with log-probabilities if they were asked for."""

    token_id: int
    logprobs: TokenLogprobs | None = None


def choose(
    logits: Tensor,
    states: Sequence[SamplingState],
    vocabulary: Vocabulary,
    argmax: Argmax = _PLAIN.argmax,
) -> list[Choice]:
    """The next token of each row of `logits` [n, vocab], which are changed in place if they are fp32.

    `NOT_FINITE` where a row holds NaN or plus infinity, or nothing but minus infinity; or where the state's
    `error` says why.

    Everything happens in vLLM's order (`vllm.v1.sample.sampler.Sampler`): log-probabilities of the logits as
    the model gave them; what the grammar allows; no end before `min_tokens`; logit bias; repetition,
    frequency and presence penalty. Greedy requests then take the best token; the others divide by the
    temperature and cut by min-p, top-k and top-p.

    The random number of a draw is a function of seed and position alone, and no row's arithmetic depends on
    another row.
    """
    if all(state.takes_the_best for state in states):
        return [Choice(token_id) for token_id in _best(logits, argmax)]
    logits = logits.float()
    asking = [row for row, state in enumerate(states) if state.sampling.logprobs is not None]
    original = logits[asking] if asking else None
    _adjust(logits, states, vocabulary)
    token_ids = _choose(logits, states, argmax)
    choices = [Choice(token_id) for token_id in token_ids]
    if original is not None:
        chosen = [max(0, token_ids[row]) for row in asking]  # a request that fails is past caring
        wanted = [states[row].sampling.logprobs or 0 for row in asking]
        found = take_logprobs(original, chosen, wanted, vocabulary.token_bytes)
        for row, logprobs in zip(asking, found, strict=True):
            choices[row] = Choice(token_ids[row], logprobs)
    return choices


def _best(logits: Tensor, argmax: Argmax) -> list[int]:
    values, token_ids = argmax(logits)
    pairs = zip(torch.isfinite(values).tolist(), token_ids.tolist(), strict=True)
    return [token_id if is_finite else NOT_FINITE for is_finite, token_id in pairs]


def _choose(logits: Tensor, states: Sequence[SamplingState], argmax: Argmax) -> list[int]:
    token_ids = _best(logits, argmax)
    drawing = [
        row for row, state in enumerate(states) if token_ids[row] != NOT_FINITE and not state.is_greedy
    ]
    if drawing:
        drawn = draw(
            logits,
            drawing,
            [states[row].sampling for row in drawing],
            [states[row].number for row in drawing],
        )
        for row, token_id in zip(drawing, drawn, strict=True):
            token_ids[row] = token_id
    return token_ids


def _adjust(logits: Tensor, states: Sequence[SamplingState], vocabulary: Vocabulary) -> None:
    adjusted = [(row, state) for row, state in enumerate(states) if state.is_adjusted]
    constrained = [(row, state) for row, state in adjusted if state.grammar is not None]
    if constrained:
        _constrain(logits, constrained)
    short = [row for row, state in adjusted if state.forbids_end]
    if short:
        ends = torch.tensor(sorted(vocabulary.end_token_ids), dtype=torch.long)
        logits[torch.tensor(short).unsqueeze(1), ends] = -torch.inf
    biased = [(row, state.sampling.logit_bias) for row, state in adjusted if state.sampling.logit_bias]
    if biased:
        add_bias(logits, *zip(*biased, strict=True))
    penalised = [(row, state.sampling, state.counts) for row, state in adjusted if state.counts is not None]
    if penalised:
        penalise(logits, *zip(*penalised, strict=True))


def _constrain(logits: Tensor, rows: Sequence[tuple[int, SamplingState]]) -> None:
    """Leave only what the grammars allow; nothing at all where one fails."""
    vocab = logits.shape[1]
    allowed = np.zeros((len(rows), vocab), dtype=np.uint8)
    for index, (_, state) in enumerate(rows):
        if state.grammar is None:
            continue
        try:
            bits = np.frombuffer(state.grammar.allowed(), dtype=np.uint8)
        except GrammarTooComplexError as error:
            state.error = error
        else:
            allowed[index] = np.unpackbits(bits, count=vocab, bitorder="little")
    place = torch.tensor([row for row, _ in rows], device=logits.device)
    forbidden = torch.from_numpy(allowed == 0).to(logits.device)
    logits[place] = logits[place].masked_fill_(forbidden, -torch.inf)
