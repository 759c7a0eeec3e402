"""Re-executes an answer from its prompt and compares it token by token with the answer that was paid for.

Another CPU, batch composition or number format rounds differently, so an honest answer may diverge from ours
where two tokens were almost equally likely. The gap between the two tokens distinguishes this from an answer
of another adapter; `python -m benchmarks.reexecution` measures both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.attribution import INDEX_FILE, shares_from_scores
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.money import PPM
from backend.domain.receipt_checks import Check
from backend.domain.split import MAX_SHARES
from backend.ports.attribution import Probe
from backend.services.answers.attribution import answer_probe, attribute
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
"""In nats. Rounding explains a first difference up to this gap."""
_CLOSING = re.compile(rb"<\|[a-z_]+\|>|</s>")
"""End-of-sequence tokens of the model families that the engine serves."""
SHARE_TOLERANCE_PPM = 30_000
"""Tolerance for shares computed from a re-executed state. Batch-invariant kernels and products in fp32 moved
a share of 43 answers by up to 20,000 ppm (SmolLM2-135M, `distilled-error-1`).
"""


class NotRepeatable(InvalidInput):
    """The answer was sampled without a seed or has several choices, so that no run reproduces it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """First difference of two answers. `gap`: logit of our token minus that of the claimed token, None if the
    claimed token is not among our most likely ones.
    """

    place: int
    computed: bytes
    claimed: bytes
    gap: float | None

    @property
    def is_rounding(self) -> bool:
        return self.gap is not None and self.gap <= ROUNDING_GAP


@dataclass(frozen=True, slots=True)
class Reexecution:
    """A re-executed answer: text, tokens with alternatives, and the probe if requested."""

    text: str
    places: tuple[TokenLogprobs, ...]
    probe: Probe | None


async def reexecute(engine: Engine, request: Generate) -> Reexecution:
    """Re-execute `request`, which must request log-probabilities. Errors: those of the engine."""
    chunks = [chunk async for chunk in engine.generate(request)]
    if not chunks:
        raise Unavailable("The engine did not answer.")
    return reexecution_from_chunks(chunks)


def reexecution_from_chunks(chunks: Sequence[Chunk]) -> Reexecution:
    text = "".join(chunk.text for chunk in chunks)
    places = tuple(place for chunk in chunks for place in chunk.logprobs or ())
    return Reexecution(text, places, answer_probe(chunks[-1].probe))


def first_difference(claimed: str, repeated: Reexecution) -> Difference | None:
    """None if the answers are the same text, or one of them lacks the blank of its first token: decoders of
    SentencePiece drop it unless they decode after the prompt, which vLLM does for all answers, our engine for
    raw prompts, and release 0.1.0 did for none.
    """
    if claimed == repeated.text or _is_same_but_for_a_blank(claimed, repeated):
        return None
    rest = claimed.encode()
    if _begins_with_blank(repeated) and not rest.startswith(b" "):
        rest = b" " + rest
    for number, place in enumerate(repeated.places):
        token = place.chosen.token
        if rest and token and rest.startswith(token):
            rest = rest[len(token) :]
            continue
        return _difference(number, place, rest)
    return Difference(len(repeated.places), b"", rest[:16], None)


def _is_same_but_for_a_blank(claimed: str, repeated: Reexecution) -> bool:
    return _begins_with_blank(repeated) and claimed.removeprefix(" ") == repeated.text.removeprefix(" ")


def _begins_with_blank(repeated: Reexecution) -> bool:
    return bool(repeated.places) and repeated.places[0].chosen.token.startswith(b" ")


def execution_check(claimed: str, repeated: Reexecution) -> Check:
    found = first_difference(claimed, repeated)
    if found is None:
        text = f"all {len(repeated.places)} tokens are the same"
        if claimed != repeated.text:
            text += ", and so are the texts, but for a blank at their start that some decoders drop"
        return Check("execution", is_right=True, message=text)
    gap = "not among our 20 most likely" if found.gap is None else f"{found.gap:.3f} nats less likely here"
    text = f"token {found.place + 1} is {found.claimed!r}, re-executed it is {found.computed!r} ({gap})"
    if found.is_rounding:
        text += ": rounding on other hardware explains it; later tokens cannot be compared"
        return Check("execution", is_right=None, message=text)
    return Check("execution", is_right=False, message=text)


def attribution_check(
    attributors: Sequence[Attributor],
    folder: Path,
    positions: Sequence[int],
    method: str,
    shares: Sequence[Share],
    probe: Probe | None,
    draw: int | None = None,
    *,
    is_blend: bool = False,
) -> Check:
    """Check that the shares follow from the adapter's index. `attributors`: those used for answers, in order
    of preference. The preference may have changed since the answer was signed, so the signed method is used;
    uniform shares, the last resort, are accepted only if no other method applies. In a blend, a version
    without an index has uniform shares under any method; receipts of earlier releases with such a version
    have uniform shares in all slices. `draw`: see `answer_draw`; None if the answer is not available.
    """
    if method not in {attributor.method for attributor in attributors}:
        return Check("attribution", is_right=None, message=f"the method {method} is not available here")
    last_resort = attributors[-1]
    own = [each for each in attributors if each.method == method and each is not last_resort]
    if probe is None and method == last_resort.method and (folder / INDEX_FILE).is_file():
        text = f"{method} counts only if no method applies: pass --request, --answer and --re-execute"
        return Check("attribution", is_right=None, message=text)
    applicable = attributors if method == last_resort.method else [*own, last_resort]
    given = Probe() if probe is None else probe
    found = attribute(applicable, folder, positions, given, draw or 0)
    preferred = attribute(attributors, folder, positions, given).method
    if found.method != method:
        if probe is None and (folder / INDEX_FILE).is_file():
            text = f"{method} needs the answer's state: pass --request, --answer and --re-execute"
            return Check("attribution", is_right=None, message=text)
        if not is_blend or last_resort.method not in {method, preferred}:
            text = f"{method} was signed, {found.method} applies"
            return Check("attribution", is_right=False, message=text)
        found = attribute([last_resort], folder, positions, given, draw or 0)
    is_uniform = found.method == last_resort.method
    check = _compare(found.method, found.shares, shares, 0 if is_uniform else SHARE_TOLERANCE_PPM)
    if is_uniform and not check.is_right:
        check = _by_another_draw(positions, shares, draw) or _with_repeats(positions, shares) or check
    if not check.is_right or preferred == found.method:
        return check
    text = f"{check.message}; {preferred} applies too and is preferred, at least now"
    return Check("attribution", is_right=None, message=text)


def _by_another_draw(positions: Sequence[int], shares: Sequence[Share], draw: int | None) -> Check | None:
    """An open check if a draw has these uniform shares, and the answer's is not known; or if they are those
    of release 0.1.0, where the first 256 contributions counted.
    """
    if len(positions) <= MAX_SHARES:
        return None
    ordered, signed = sorted(positions), {share.position for share in shares}
    first = next((i for i, at in enumerate(ordered) if at in signed and ordered[i - 1] not in signed), 0)
    if shares_from_scores(dict.fromkeys(ordered, 1.0), first) != tuple(shares):
        return None
    text = f"{MAX_SHARES} of {len(positions)} contributions share alike; "
    if draw is None:
        text += "the answer decides which ones: pass --request and --answer"
    elif first == 0:
        text += "they are the first ones, as in release 0.1.0; now the answer decides which ones"
    else:
        return None
    return Check("attribution", is_right=None, message=text)


def _with_repeats(positions: Sequence[int], shares: Sequence[Share]) -> Check | None:
    """An open check if these uniform shares name further positions, as in release 0.1.0: a contribution was
    paid at its position in each snapshot. Whether they are positions of the version, batches are judged by.
    """
    signed = {share.position for share in shares}
    if not signed > set(positions) or shares_from_scores(dict.fromkeys(signed, 1.0)) != tuple(shares):
        return None
    text = "contributions of several snapshots share at each position, as in release 0.1.0; now at the first"
    return Check("attribution", is_right=None, message=text)


def _compare(method: str, ours: Sequence[Share], theirs: Sequence[Share], limit: int) -> Check:
    """Many small differences that are within the limit, and exceed it together, are left open."""
    recomputed, signed = ({share.position: share.ppm for share in each} for each in (ours, theirs))
    gap = max(abs(recomputed.get(at, 0) - signed.get(at, 0)) for at in recomputed.keys() | signed.keys())
    moved = sum(max(ppm - recomputed.get(at, 0), 0) for at, ppm in signed.items())
    text = f"recomputed shares by {method} differ by at most {gap} of {PPM} ppm, and by {moved} in all"
    is_open = gap <= limit < moved
    return Check("attribution", is_right=None if is_open else gap <= limit, message=text)


def _difference(number: int, place: TokenLogprobs, rest: bytes) -> Difference:
    """`rest`: the claimed answer from here on; empty if it ends here and ours continues."""
    matching = [
        each
        for each in place.top
        if (each.token and rest.startswith(each.token) if rest else _CLOSING.fullmatch(each.token))
    ]
    if not matching:
        return Difference(number, place.chosen.token, rest[:16], None)
    claimed = max(matching, key=lambda each: each.logprob)
    return Difference(number, place.chosen.token, claimed.token, place.chosen.logprob - claimed.logprob)
