"""The inference engine as services see it: chats in, text and counts out. It knows nothing of money."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from backend.domain.ids import Hash32
    from backend.ports.attribution import Probe

FinishReason = Literal["stop", "length", "abort"]
Priority = Literal[-1, 0, 1]
"""Of requests that wait: 1 is urgent, -1 is for what nobody waits for."""


class InvalidSchema(InvalidInput):
    """The JSON schema that an answer is to keep to cannot be kept to; the message names the place."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = tuple[Turn, ...] | str
"""A chat to be answered, or raw text to be continued, which no chat template touches."""


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter by content; the engine checks the folder against the digest when it loads it."""

    digest: Hash32
    path: Path


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy; `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1 and penalties of 0
    are off; without a `seed` the engine draws one. `logit_bias` is by token id. `logprobs`: how many
    alternatives to name beside each token, None for no log-probabilities at all. `json_schema`: the text of
    a JSON schema that the answer keeps to, unless it is cut off.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    json_schema: str | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """One request to the engine; without an adapter the base model answers. `blend`: several instead of one,
    each with how much of its change counts.

    `payer` tells apart those among whom the engine divides its capacity fairly, and its prefix cache.
    """

    id: str
    prompt: Prompt
    sampling: Sampling
    adapter: AdapterFolder | None = None
    probe: bool = False
    payer: str = ""
    priority: Priority = 0
    probe_error: bool = False
    """Whether the probe is to hold the error vector, which takes some work for each token."""
    blend: tuple[tuple[AdapterFolder, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token as bytes, which alone need not be UTF-8, and the natural logarithm of its probability."""

    token: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One place of an answer: what was chosen there, and the likeliest tokens in falling order."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Progress of one answer. `text` is what is new, counts are totals; the last piece has a finish reason.

    `probe` comes with the last piece of a request that asked for it; None if there is no answer. Of the
    prompt's tokens, `cached_prompt_tokens` were found in the engine's prefix cache. `logprobs`, where asked
    for, has an item for each new token, the closing one included; the text of a token may come with a later
    piece.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason | None = None
    probe: Probe | None = None
    cached_prompt_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptSize:
    num_tokens: int
    max_context: int


class Engine(Protocol):
    """Errors of all methods: `Unavailable` where a retry may help, `InvalidInput` for a bad request."""

    async def count_tokens(self, prompt: Prompt) -> PromptSize: ...

    def answer(self, chat: Chat) -> AsyncIterator[Piece]:
        """Ends after the piece with a finish reason. Raises InvalidSchema too."""
        ...

    async def abort(self, chat_id: str) -> None:
        """The answer's last piece says `abort`, with what was generated so far. Unknown ids are ignored."""
        ...

    async def active_adapters(self) -> Sequence[Hash32]:
        """Digests of the adapters that answer without being loaded first."""
        ...

    async def metrics(self, deadline_seconds: float) -> str:
        """What the engine counts, in Prometheus' text format. Errors: `Unavailable`."""
        ...
