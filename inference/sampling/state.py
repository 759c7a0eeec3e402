"""What the choice of a request's next token depends on besides the model's logits."""

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

MIN_TEMPERATURE = 1e-6  # below it draws are greedy: a smaller one would be zero as a float32


def checked(sampling: Sampling, vocab_size: int) -> Sampling:
    """`sampling` if it makes sense for a vocabulary of that size. Raises `InvalidRequestError`."""
    try:
        # Ranges are declared on the message; a caller in this process has not been through its decoder.
        sampling = msgspec.convert(msgspec.to_builtins(sampling), Sampling)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"sampling: {error}") from error
    least, most = sampling.min_tokens, sampling.max_tokens
    if least > most:
        raise InvalidRequestError(f"sampling: min_tokens {least} exceeds max_tokens {most}")
    if sampling.constraint is not None and (least or sampling.ignore_eos):
        raise InvalidRequestError(
            "sampling: a constraint says where answers end, not min_tokens or ignore_eos"
        )
    highest = max(sampling.logit_bias, default=0)
    if highest >= vocab_size:
        raise InvalidRequestError(
            f"sampling: logit_bias names token {highest}; the last one is {vocab_size - 1}"
        )
    return sampling


class SamplingState:
    """One request's parameters and what follows from its answer so far.

    It is a function of the parameters and the tokens pushed, so a preempted request goes on where it was.
    """

    __slots__ = ("counts", "error", "grammar", "is_adjusted", "is_greedy", "num_drawn", "sampling", "seed")

    def __init__(self, sampling: Sampling, prompt: Sequence[int], grammar: Grammar | None = None) -> None:
        self.sampling = sampling
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.num_drawn = 0
        self.is_greedy = sampling.temperature < MIN_TEMPERATURE or sampling.top_k == 1
        repeats = sampling.repetition_penalty != 1.0
        is_penalised = repeats or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        # Only the repetition penalty looks at the prompt.
        self.counts = TokenCounts(prompt if repeats else ()) if is_penalised else None
        self.grammar = None if grammar is None else grammar.start()
        self.error: InferenceError | None = None  # why no token can be chosen, where it is not the model
        # Whether any logit has to be changed before a token is chosen.
        self.is_adjusted = (
            is_penalised or bool(sampling.logit_bias) or sampling.min_tokens > 0 or grammar is not None
        )

    @property
    def takes_the_best(self) -> bool:
        """Whether the next token is the one of the largest logit and nothing else is asked."""
        return self.is_greedy and not self.is_adjusted and self.sampling.logprobs is None

    @property
    def forbids_end(self) -> bool:
        return self.num_drawn < self.sampling.min_tokens

    @property
    def number(self) -> float:
        """The random number, in [0, 1), that the next token is drawn with."""
        return uniform(self.seed, self.num_drawn)

    def push(self, token_id: int) -> None:
        """The answer goes on with `token_id`."""
        self.num_drawn += 1
        if self.counts is not None:
            self.counts.push(token_id)
        if self.grammar is not None:
            self.grammar.push(token_id)
