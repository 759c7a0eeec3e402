"""Port of the process that attributes answers by gradients, and the messages to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

from msgspec import Meta, Struct

from inference.protocol import MAX_BLEND_PARTS, Message, ReasoningEffort, Tools

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_TOKENS = 4096
"""Of a request; the activations of longer answers would take too much memory."""


class GradientRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Score the contributions to an answer, at the checkpoint in each of the adapter `folders`.

    The prompt is given as in `inference.protocol.Generate`, the choices by their token ids. The gradient
    passes through `num_tokens`: the prompt counts for each choice. After `seconds` the result is of no use.
    Requests in the background are computed while no others wait.
    """

    request_id: str
    folders: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_BLEND_PARTS)]
    choices: Annotated[tuple[tuple[int, ...], ...], Meta(min_length=1)]
    num_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    seconds: float
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    tools: Tools | None = None
    reasoning_effort: ReasoningEffort | None = None
    is_background: bool = False


class GradientScores(Struct, frozen=True, forbid_unknown_fields=True):
    """For each folder, the (position, score) of every contribution in its index. With an `error` there are
    none: the answer cannot be attributed by gradients, or not now.
    """

    request_id: str
    scores: tuple[tuple[tuple[int, float], ...], ...] = ()
    error: str = ""


class Gradients(Protocol):
    async def scores(self, request: GradientRequest) -> Sequence[Mapping[int, float]]:
        """Score of each contribution by position, for each of the request's folders.

        Errors: `Unavailable` if the answer cannot be attributed by gradients, or not now.
        """
        ...

    async def close(self) -> None:
        """End all requests with `Unavailable`."""
        ...
