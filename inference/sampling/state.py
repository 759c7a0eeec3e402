"""What the choice of a request's next token depends on besides the model's logits."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from inference.sampling.draw import uniform
from inference.sampling.penalties import TokenCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.protocol import Sampling

MIN_TEMPERATURE = 1e-6  # below it draws are greedy: a smaller one would be zero as a float32


class SamplingState:
    """One request's parameters and what follows from its answer so far.

    It is a function of the parameters and the tokens pushed, so a preempted request goes on where it was.
    """

    __slots__ = ("counts", "is_adjusted", "is_greedy", "num_drawn", "sampling", "seed")

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.sampling = sampling
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.num_drawn = 0
        self.is_greedy = sampling.temperature < MIN_TEMPERATURE or sampling.top_k == 1
        repeats = sampling.repetition_penalty != 1.0
        is_penalised = repeats or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        # Only the repetition penalty looks at the prompt.
        self.counts = TokenCounts(prompt if repeats else ()) if is_penalised else None
        # Whether any logit has to be changed before a token is chosen.
        self.is_adjusted = is_penalised or bool(sampling.logit_bias) or sampling.min_tokens > 0

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
