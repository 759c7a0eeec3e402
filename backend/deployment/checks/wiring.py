"""Whether the contracts name each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.deployment.checks.reading import Finding, off
from backend.deployment.contracts import CONTRACTS, named_by

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reading import Reading


def check_wiring(reading: Reading) -> Iterator[Finding]:
    for contract in CONTRACTS:
        for getter, named in named_by(contract).items():
            found = reading.ask(contract, getter)
            if found != reading.at(named):
                yield off(contract, f"{getter} is {found}, not the {named} at {reading.at(named)}")
