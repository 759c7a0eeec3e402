"""The market's parameters in words and in the units that people use."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, DecimalException
from enum import Enum
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.money import PPM
from backend.web.formats import full_address, percent

if TYPE_CHECKING:
    from markupsafe import Markup


class Unit(Enum):
    """`label`: of the field in which a new value is written."""

    ACCOUNT = "address"
    PPM = "percent"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Parameter:
    """`name`: as in the contract's `ParameterSet`."""

    name: str
    words: str
    unit: Unit

    def write(self, value: str | int) -> Markup | str:
        if self.unit is Unit.ACCOUNT:
            return full_address(str(value))
        return percent(int(value)) if self.unit is Unit.PPM else duration(int(value))

    def parse(self, text: str) -> int | str:
        """Errors: `InvalidInput`."""
        if self.unit is Unit.ACCOUNT:
            return text.lower()
        scale = PPM // 100 if self.unit is Unit.PPM else 1
        try:
            value = Decimal(text) * scale
        except DecimalException:
            value = Decimal(-1)
        # The contract's fields are uint32. As an integer, 1e999999 would take seconds, and more all memory.
        if not value.is_finite() or not 0 <= value < 1 << 32 or value != int(value):
            raise InvalidInput(f"{self.words}: write {self.unit.value} such as 5, not {text!r}.", self.name)
        return int(value)


PARAMETERS = {
    one.name: one
    for one in (
        Parameter("treasury", "Treasury, which earns the fee", Unit.ACCOUNT),
        Parameter("feePpm", "Protocol fee, of each charge", Unit.PPM),
        Parameter("stakeCoverPpm", "Stake cover, of an operator's open charges", Unit.PPM),
        Parameter("disputeWindow", "Dispute window, until a batch is final", Unit.SECONDS),
        Parameter("minContributorsPpm", "Contributors' share, at least", Unit.PPM),
        Parameter("minOperatorPpm", "Operator's share, at least", Unit.PPM),
        Parameter("maxOperatorPpm", "Operator's share, at most", Unit.PPM),
        Parameter("challengerPpm", "Challenger's share of a slash", Unit.PPM),
    )
}


def duration(seconds: int) -> str:
    """Days, hours, minutes and seconds that are not zero: `2 d 4 h`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
