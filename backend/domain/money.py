"""Amounts and prices, how they are written and read, and ratios with their rounding.

Accounting is in micro-units: a dollar is 10^6 units of the payment token, a unit is 10^6 micro-units. Tokens
move in whole units only. Ratios are in parts per million (ppm).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from backend.domain.errors import InvalidInput

PPM = 1_000_000
"""The whole, in ppm."""
UNIT = 1_000_000
"""Micro-units in a token unit."""
MAX_AMOUNT = (1 << 128) - 1
"""Micro-units that the contracts can hold."""
DOLLAR = 10**12
"""Micro-units in a dollar: the payment token has six decimals."""

GWEI = 10**9
"""Wei in a gwei."""
COIN = 10**18
"""Wei in one coin of the chain."""

_QUOTED = 60
"""Characters of an input that an error message quotes at most."""


def mul_ppm_down(amount: int, ppm: int) -> int:
    """`amount * ppm / 1,000,000`, rounded down."""
    return amount * ppm // PPM


def mul_ppm_to_units_up(amount: int, ppm: int) -> int:
    """`ppm` of micro-units in whole token units, rounded up."""
    return -(-amount * ppm // (PPM * UNIT))


def most_covered(stake: int, ppm: int) -> int:
    """The largest amount of which a stake is `ppm`, rounded up to whole token units; all in micro-units."""
    return MAX_AMOUNT if ppm == 0 else min(MAX_AMOUNT, stake // UNIT * PPM * UNIT // ppm)


@dataclass(frozen=True, slots=True)
class Notation:
    """How JSON represents an integer of some unit: as an object with the integer and the same in dollars,
    both exact and both strings. A string of dollars is accepted too, for input that people type.
    """

    name: str
    """What is written, with its article."""
    unit: str
    """Key of the integer."""
    dollars: str
    """Key of the dollars."""
    decimals: int
    """The unit is 10^-decimals dollars."""
    end: int
    """Exclusive upper bound of the integer."""
    example: str
    """In dollars."""

    @property
    def unit_pattern(self) -> str:
        return f"[0-9]{{1,{len(str(self.end - 1))}}}"

    @property
    def dollars_pattern(self) -> str:
        whole = len(str(self.end - 1)) - self.decimals
        return rf"[0-9]{{1,{whole}}}(\.[0-9]{{1,{self.decimals}}})?"

    def render(self, number: int) -> dict[str, str]:
        return {self.unit: str(number), self.dollars: self.decimal(number)}

    def decimal(self, number: int) -> str:
        """The exact dollars, without trailing zeros: `0.00044`."""
        whole, rest = divmod(number, 10**self.decimals)
        return f"{whole}" + (f".{rest:0{self.decimals}d}".rstrip("0") if rest else "")

    def read(self, value: object) -> int:
        """The integer of an object as rendered. Errors: `InvalidInput` for anything else."""
        if not isinstance(value, Mapping) or value.keys() != {self.unit, self.dollars}:
            raise InvalidInput(
                f"{self.name} has the keys {self.unit} and {self.dollars}, which {_quote(value)} has not"
            )
        return self.parse(value)

    def parse(self, value: object) -> int:
        """Read what a person or a program wrote: an object as rendered, one with only one of its keys, or a
        string of dollars.

        Errors: `InvalidInput` for anything else, also for JSON numbers: they are not exact.
        """
        if not isinstance(value, Mapping):
            return self._parse_dollars(value)
        if not value or value.keys() - {self.unit, self.dollars}:
            raise InvalidInput(
                f"{self.name} has the keys {self.unit} and {self.dollars}, or one of them, such as "
                f"{self._example_object}; the keys are {', '.join(map(_quote, value)) or 'missing'}"
            )
        readers = {self.unit: self._parse_unit, self.dollars: self._parse_dollars}
        numbers = [readers[key](part) for key, part in value.items()]
        if numbers[0] != numbers[-1]:
            raise InvalidInput(
                f"{self.unit} and {self.dollars} do not agree: give one of them, such as "
                f"{self._example_object}"
            )
        return numbers[0]

    def _parse_unit(self, text: object) -> int:
        if not isinstance(text, str) or not re.fullmatch(self.unit_pattern, text):
            example = self._parse_dollars(self.example)
            raise InvalidInput(f'{self.unit} is a string of digits such as "{example}", not {_quote(text)}')
        return self._bounded(int(text))

    def _parse_dollars(self, text: object) -> int:
        if not isinstance(text, str):
            raise InvalidInput(
                f'{self.name} is a string of dollars such as "{self.example}", or an object such as '
                f"{self._example_object}, not {_quote(text)}: JSON numbers are not exact"
            )
        if not re.fullmatch(self.dollars_pattern, text):
            raise InvalidInput(self._fault(text))
        whole, _, fraction = text.partition(".")
        return self._bounded(int(whole + fraction.ljust(self.decimals, "0")))

    def _bounded(self, number: int) -> int:
        if number >= self.end:
            raise InvalidInput(self._too_large)
        return number

    def _fault(self, text: str) -> str:
        """What is wrong with these dollars."""
        if re.fullmatch(r"-[0-9.]+", text):
            return f'{self.name} is not negative, as {_quote(text)} is: write one such as "{self.example}"'
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
            return (
                f'{_quote(text)} is not {self.name.lower()} in dollars such as "{self.example}": digits with '
                "at most one decimal point, without sign, exponent and separators"
            )
        if len(text.partition(".")[2]) > self.decimals:
            limit = f'{self.decimals} decimals, such as "{self.decimal(1)}"'
            return f"{self.name} has at most {limit}; {_quote(text)} has more"
        return self._too_large

    @property
    def _too_large(self) -> str:
        most = self.decimal(self.end - 1)
        return f'{self.name} is at most {most} dollars: write one such as "{self.example}"'

    @property
    def _example_object(self) -> str:
        return f'{{"{self.dollars}": "{self.example}"}}'


AMOUNT = Notation("An amount", "micro_units", "usd", 12, 1 << 128, "5.00")
PRICE = Notation(
    "A price of a million tokens", "micro_units_per_token", "usd_per_million_tokens", 6, 1 << 64, "0.20"
)
"""The integer is that of a version record: token units per million tokens are micro-units per token."""


def in_dollars(amount: int) -> str:
    """Format micro-units exactly: `1,000 dollars`, `1 dollar`, `0.25 dollars`."""
    whole, point, fraction = AMOUNT.decimal(amount).partition(".")
    return f"{int(whole):,}{point}{fraction} {'dollar' if amount == DOLLAR else 'dollars'}"


def price_in_dollars(price: int) -> str:
    """Format token units per million tokens exactly: `0.2 dollars per million tokens`."""
    return f"{in_dollars(price * UNIT)} per million tokens"


def prices_in_dollars(prompt: int, completion: int) -> str:
    """Format two prices exactly: `0.2 and 0.4 dollars per million prompt and completion tokens`."""
    both = f"{PRICE.decimal(prompt)} and {PRICE.decimal(completion)} dollars"
    return f"{both} per million prompt and completion tokens"


def whole_units(amount: int, param: str | None = None) -> int:
    """Micro-units in token units. Errors: `InvalidInput` about `param` for a remainder."""
    units, remainder = divmod(amount, UNIT)
    if remainder:
        raise InvalidInput(
            f"Tokens move in whole units of {in_dollars(UNIT)}: {in_dollars(amount)} leave a remainder of "
            f"{in_dollars(remainder)}. Use {in_dollars(units * UNIT)} or {in_dollars((units + 1) * UNIT)}.",
            param,
        )
    return units


def _quote(value: object) -> str:
    text = repr(value)
    return f"{text[:_QUOTED]}..." if len(text) > _QUOTED else text
