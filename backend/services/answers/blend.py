"""Blends of adapters: the base model plus the weighted sum of the adapters' deltas."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.money import PPM
from backend.domain.receipt import Slice
from backend.domain.split import MAX_SLICES, charge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.services.market.catalogue import Model

FIELD = "loraledger.blend"


@dataclass(frozen=True, slots=True)
class Part:
    """A version's part of an answer. `weight` scales its delta; `ppm` of the tokens are charged at its price
    and credited to its contributors.
    """

    model: Model
    weight: float = 1.0
    ppm: int = PPM


def build_blend(weighted: Sequence[tuple[Model, float]]) -> tuple[Part, ...]:
    """Parts in proportion to the weights, which must be positive; rounding remainders go to the first parts.

    The weights sum to at most 1, so that no adapter is used for more than it is paid. Otherwise an adapter
    that changes nothing would, by a large weight, take the pay of one that is used in full.

    Errors: `InvalidInput` for a larger sum, for the base model, which is in every blend, and for repeated
    adapters.
    """
    if not 1 <= len(weighted) <= MAX_SLICES:
        raise InvalidInput(f"A blend has 1 to {MAX_SLICES} adapters.", param=FIELD)
    if any(model.is_base for model, _ in weighted):
        raise InvalidInput("A blend consists of adapters; every blend includes the base model.", param=FIELD)
    if len({model.record.adapter_digest for model, _ in weighted}) < len(weighted):
        raise InvalidInput("A blend must name each adapter only once.", param=FIELD)
    weights = [Fraction(str(weight)) for _, weight in weighted]  # exactly as written: 0.9 is 9/10
    total = float(sum(weights))  # rounded: 0.7 and 1 - 0.7 are 1
    if total > 1:
        raise InvalidInput(
            f"The weights of a blend sum to {total:g}; at most 1 is possible, because each "
            "adapter is paid by its weight.",
            param=FIELD,
        )
    ppm = [int(weight * PPM / sum(weights)) for weight in weights]
    rest = PPM - sum(ppm)
    return tuple(
        Part(model, weight, part + (number < rest))
        for number, ((model, weight), part) in enumerate(zip(weighted, ppm, strict=True))
    )


def price(parts: Sequence[Part], prompt_tokens: int, completion_tokens: int) -> int:
    """Micro-units, never less for more tokens."""
    slices = [Slice(part.model.id, part.ppm, ()) for part in parts]
    return charge(slices, [part.model.record for part in parts], prompt_tokens, completion_tokens)
