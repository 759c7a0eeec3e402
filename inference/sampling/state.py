"""Sampling state of a request: its parameters, and what depends on its answer so far."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import msgspec

from inference.errors import InvalidRequestError
from inference.protocol import Sampling
from inference.sampling.draw import uniform
from inference.sampling.penalties import TokenCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.errors import InferenceError
    from inference.sampling.grammar import Grammar

MIN_TEMPERATURE = 1e-6  # lower temperatures are greedy, because they may round to zero in float32


def validate_sampling(sampling: Sampling, vocab_size: int) -> Sampling:
    """Return `sampling` if it is valid for a vocabulary of `vocab_size`. Raises `InvalidRequestError`."""
    try:
        # The decoder checks the ranges declared on the message; a caller in this process has not used it.
        sampling = msgspec.convert(msgspec.to_builtins(sampling), Sampling)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"sampling: {error}") from error
    least, most = sampling.min_tokens, sampling.max_tokens
    if least > most:
        raise InvalidRequestError(f"sampling: min_tokens {least} exceeds max_tokens {most}")
    if sampling.constraint is not None and (least or sampling.ignore_eos):
        raise InvalidRequestError(
            "sampling: min_tokens and ignore_eos cannot be combined with a constraint, which defines the end"
        )
    highest = max(sampling.logit_bias, default=0)
    if highest >= vocab_size:
        raise InvalidRequestError(
            f"sampling: logit_bias names token {highest}; the last token is {vocab_size - 1}"
        )
    return sampling


class SamplingState:
    """Sampling parameters of one request, and the state that its answer so far determines.

    It depends only on the parameters and the pushed tokens, so preemption does not change the answer.
    """

    __slots__ = ("counts", "error", "grammar", "is_adjusted", "is_greedy", "num_drawn", "sampling", "seed")

    def __init__(self, sampling: Sampling, prompt: Sequence[int], grammar: Grammar | None = None) -> None:
        self.sampling = sampling
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.num_drawn = 0
        self.is_greedy = sampling.temperature < MIN_TEMPERATURE or sampling.top_k == 1
        repeats = sampling.repetition_penalty != 1.0
        is_penalised = repeats or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        # Only the repetition penalty depends on the prompt.
        self.counts = TokenCounts(prompt if repeats else ()) if is_penalised else None
        self.grammar = None if grammar is None else grammar.start()
        self.error: InferenceError | None = None  # why no token can be sampled, unless the model is the cause
        # Whether any logit must be changed before sampling.
        self.is_adjusted = (
            is_penalised or bool(sampling.logit_bias) or sampling.min_tokens > 0 or grammar is not None
        )

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is the one with the largest unchanged logit, without log-probabilities."""
        return self.is_greedy and not self.is_adjusted and self.sampling.logprobs is None

    @property
    def forbids_end(self) -> bool:
        return self.num_drawn < self.sampling.min_tokens

    @property
    def random_number(self) -> float:
        """The random number, in [0, 1), for the next token."""
        return uniform(self.seed, self.num_drawn)

    def push(self, token_id: int) -> None:
        """Append `token_id` to the answer."""
        self.num_drawn += 1
        if self.counts is not None:
            self.counts.push(token_id)
        if self.grammar is not None:
            self.grammar.push(token_id)
