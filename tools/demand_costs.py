"""Computes what demands cost a challenger and an operator, for docs/trust-model.md.

The gas comes from tests/snapshots/gas.json, the terms of bonds from `contracts/libraries/Demands.sol` and the
profile `ethereum`. `python -m tools.demand_costs` prints the table.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backend.deployment.profiles import BOUNDS, ETHEREUM
from backend.domain.money import COIN, GWEI
from tools.markdown import filled, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = ROOT / "tests" / "snapshots" / "gas.json"
SOURCE = ROOT / "contracts" / "libraries" / "Demands.sol"
BEGIN = "<!-- Written by `make docs` from tests/snapshots/gas.json, up to the end of the table. -->"
END = "<!-- End of the table. -->"
ETHER_DOLLARS = 3_000
"""Assumed price of ether."""
HEAD = ("campaign", "base fee", "attacker pays", "of it burnt", "gas of the answers", "operator is credited")
BASE_FEES = (1, 10, 100)
"""Gwei."""


def constants() -> dict[str, int]:
    """The integer constants of the library, by name."""
    found = re.findall(r"constant ([A-Z_]+) = ([\d_]+);", SOURCE.read_text())
    return {name: int(value) for name, value in found}


@dataclass(frozen=True, slots=True)
class Costs:
    """Of a campaign, in wei. The bonds are part of what the challenger pays."""

    challenger: int
    bonds: int
    operator_gas: int

    @property
    def burnt(self) -> int:
        return self.bonds // constants()["BURNT_DIVISOR"]

    @property
    def credited(self) -> int:
        return self.bonds - self.burnt


def bonds(worst_gas: int, count: int, base_fee: int) -> int:
    """Bonds in wei of `count` leaves that are demanded at once from an empty queue."""
    terms = constants()
    unit = worst_gas * (base_fee + BOUNDS[ETHEREUM]["bondFee"]) * terms["FACTOR"] // terms["QUEUE_STEP"]
    return unit * (count * terms["QUEUE_STEP"] + count * (count - 1) // 2)


def flood(gas: Mapping[str, int], count: int, base_fee: int) -> Costs:
    """Demands for `count` receipts at once, each with the worst answer."""
    paid = bonds(constants()["RECEIPT_GAS"], count, base_fee)
    demands = count * gas["demand_in_50"] * base_fee
    return Costs(paid + demands, paid, count * gas["answer_receipt_worst"] * base_fee)


def own_queue(gas: Mapping[str, int], count: int, base_fee: int) -> Costs:
    """Of an operator that demands and answers `count` absent keys of its own batch: it pays for both."""
    paid = bonds(constants()["LOOKUP_GAS"], count, base_fee)
    answers = count * gas["answer_lookup_worst"] * base_fee
    return Costs(paid + count * gas["demand_in_50"] * base_fee, paid, answers)


def flood_sizes() -> tuple[int, int]:
    """64 receipts; one for each slot of an answer's time."""
    times = BOUNDS[ETHEREUM]
    return 64, times["answerSeconds"] // times["secondsPerAnswer"]


def wave_size() -> int:
    """Leaves in each of the two waves that cost least of all demands that an operator cannot answer in time
    if it answers one leaf in each slot. The first wave uses up half of the extension.
    """
    times = BOUNDS[ETHEREUM]
    return (times["answerSeconds"] + times["maxExtension"]) // times["secondsPerAnswer"] // 2


def two_waves(gas: Mapping[str, int], base_fee: int) -> Costs:
    """Two waves of look-ups, the cheapest leaves, the second once the queue of the first has emptied."""
    count = wave_size()
    paid = 2 * bonds(constants()["LOOKUP_GAS"], count, base_fee)
    demands, answers = (2 * count * gas[each] * base_fee for each in ("demand_in_50", "answer_lookup_worst"))
    return Costs(paid + demands, paid, answers)


def _rows(gas: Mapping[str, int]) -> Iterator[list[str]]:
    for count in flood_sizes():
        for fee in BASE_FEES:
            costs = flood(gas, count, fee * GWEI)
            yield _row(f"outsider demands {count:,} receipts", fee, costs.challenger, costs)
    for fee in BASE_FEES:
        costs = two_waves(gas, fee * GWEI)
        yield _row(f"outsider demands {wave_size():,} look-ups twice", fee, costs.challenger, costs)
    # A tenfold price for the operator's challengers.
    count = 9 * constants()["QUEUE_STEP"]
    for fee in BASE_FEES:
        costs = own_queue(gas, count, fee * GWEI)
        paid = costs.challenger + costs.operator_gas - costs.credited
        yield _row(f"operator keeps {count:,} of its own look-ups open", fee, paid, costs)


def _row(campaign: str, fee: int, paid: int, costs: Costs) -> list[str]:
    amounts = (paid, costs.burnt, costs.operator_gas, costs.credited)
    return [campaign, f"{fee} gwei", *map(_dollars, amounts)]


def _dollars(wei: int) -> str:
    """Dollars with two significant digits."""
    amount = wei * ETHER_DOLLARS / COIN
    return f"{float(f'{amount:.2g}'):,.0f} $" if amount >= 10 else f"{amount:.2g} $"


def with_table(page: str) -> str:
    """Return the page with the table of costs. Raises `ValueError` without the two marks."""
    return filled(page, BEGIN, END, cost_table())


def cost_table() -> str:
    return "\n".join(table(HEAD, _rows(json.loads(SNAPSHOT.read_text()))))


def main() -> None:
    print(cost_table())


if __name__ == "__main__":
    main()
