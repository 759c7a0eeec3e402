"""An answer computed again, by whoever holds its prompt, and compared token by token with what was paid for.

Another CPU, another company in the batch or another number format rounds otherwise, so an honest answer may
part from ours where two tokens were nearly as likely. What tells it from another adapter's answer is how far
apart they were; `python -m benchmarks.reexecution` measures both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.money import PPM
from backend.ports.attribution import Probe
from backend.services.answers.attribution import answer_probe, attribute
from backend.services.receipts.verification import Check
from inference.protocol import MAX_TOP_LOGPROBS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.domain.receipt import Share
    from backend.ports.attribution import Attributor
    from backend.ports.engine import Engine
    from inference.protocol import Chunk, Generate, TokenLogprobs

MAX_ALTERNATIVES = MAX_TOP_LOGPROBS
ROUNDING_GAP = 0.5
"""In nats: a first difference of less is what rounding can do, of more it is not."""
_CLOSING = re.compile(rb"<\|[a-z_]+\|>|</s>")
"""Tokens that end answers of the families of models that the engine serves."""
SHARE_TOLERANCE_PPM = 10_000
"""By which shares may differ that follow from a state that was computed again."""


class NotRepeatable(InvalidInput):
    """An answer that was drawn by chance without a seed, or of several choices: no run repeats it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two answers part first. `gap`: logit of the token that we computed less that of the one that was
    claimed, None where the claimed one is not among our likeliest.
    """

    place: int
    computed: bytes
    claimed: bytes
    gap: float | None

    @property
    def is_rounding(self) -> bool:
        return self.gap is not None and self.gap <= ROUNDING_GAP


@dataclass(frozen=True, slots=True)
class Repeated:
    """What an engine answered again: text, its tokens with alternatives, and the probe if asked for."""

    text: str
    places: tuple[TokenLogprobs, ...]
    probe: Probe | None


async def repeat(engine: Engine, request: Generate) -> Repeated:
    """Answer `request`, which asks for log-probabilities. Errors: those of the engine."""
    chunks = [chunk async for chunk in engine.generate(request)]
    if not chunks:
        raise Unavailable("The engine did not answer.")
    return repeated_answer(chunks)


def repeated_answer(chunks: Sequence[Chunk]) -> Repeated:
    text = "".join(chunk.text for chunk in chunks)
    places = tuple(place for chunk in chunks for place in chunk.logprobs or ())
    return Repeated(text, places, answer_probe(chunks[-1].probe))


def first_difference(claimed: str, repeated: Repeated) -> Difference | None:
    """None if the answers are the same text."""
    if claimed == repeated.text:
        return None
    rest = claimed.encode()
    for number, place in enumerate(repeated.places):
        token = place.chosen.token
        if rest and token and rest.startswith(token):
            rest = rest[len(token) :]
            continue
        return _difference(number, place, rest)
    return Difference(len(repeated.places), b"", rest[:16], None)


def execution_check(claimed: str, repeated: Repeated) -> Check:
    found = first_difference(claimed, repeated)
    if found is None:
        return Check("execution", is_right=True, message=f"all {len(repeated.places)} tokens are the same")
    gap = "beyond our 20 likeliest" if found.gap is None else f"{found.gap:.3f} of a logit less likely here"
    text = f"token {found.place + 1} is {found.claimed!r}, computed again it is {found.computed!r} ({gap})"
    if found.is_rounding:
        text += ": within what other hardware rounds; what follows is not comparable"
        return Check("execution", is_right=None, message=text)
    return Check("execution", is_right=False, message=text)


def attribution_check(
    attributors: Sequence[Attributor],
    folder: Path,
    positions: Sequence[int],
    method: str,
    shares: Sequence[Share],
    probe: Probe | None,
) -> Check:
    """Whether the shares follow from the adapter's own index. `attributors`: those that serve answers, in
    their order. One that was the first when an answer was signed may not be so now, so that an answer is
    judged by its own; but all alike it shares only where no other applies.
    """
    if method not in {attributor.method for attributor in attributors}:
        return Check("attribution", is_right=None, message=f"no answer is attributed by {method} here")
    last_resort = attributors[-1]
    own = [each for each in attributors if each.method == method and each is not last_resort]
    applicable = attributors if method == last_resort.method else [*own, last_resort]
    found = attribute(applicable, folder, positions, Probe() if probe is None else probe)
    if found.method != method:
        if probe is None:
            text = f"{method} needs the answer's state: give --request and --answer, and --re-execute"
            return Check("attribution", is_right=None, message=text)
        return Check("attribution", is_right=False, message=f"{method} was signed, {found.method} applies")
    ours, theirs = ({s.position: s.ppm for s in each} for each in (found.shares, shares))
    gap = max(abs(ours.get(at, 0) - theirs.get(at, 0)) for at in ours.keys() | theirs.keys())
    limit = 0 if probe is None else SHARE_TOLERANCE_PPM
    text = f"shares by {method} computed again differ by {gap} of {PPM} ppm at most"
    return Check("attribution", gap <= limit, text)


def _difference(number: int, place: TokenLogprobs, rest: bytes) -> Difference:
    """`rest`: of the claimed answer, from this place on; empty where it ends and ours goes on."""
    fitting = [
        each
        for each in place.top
        if (each.token and rest.startswith(each.token) if rest else _CLOSING.fullmatch(each.token))
    ]
    if not fitting:
        return Difference(number, place.chosen.token, rest[:16], None)
    claimed = max(fitting, key=lambda each: each.logprob)
    return Difference(number, place.chosen.token, claimed.token, place.chosen.logprob - claimed.logprob)
