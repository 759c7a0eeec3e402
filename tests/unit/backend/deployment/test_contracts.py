from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from backend.chain.contracts import interface
from backend.deployment.contracts import (
    CONTRACTS,
    GENERATION,
    PAYMENT_TOKEN,
    REFERENCES,
    ROLE_OF_FUNCTION,
    references_of,
)
from backend.deployment.record import Record, read_record, write_record
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.ids import Account, Hash32

if TYPE_CHECKING:
    from pathlib import Path

RECORD = Record(
    chain_id=1,
    block_number=5,
    block_hash=Hash32("0x" + "01" * 32),
    addresses={"Settlement": Account("0x" + "ab" * 20)},
    blocks={"Settlement": 5},
    transactions={"Settlement": Hash32("0x" + "02" * 32)},
    profile="ethereum",
    deployer=Account("0x" + "cd" * 20),
    guardians=(Account("0x" + "ef" * 20),),
    curators=(Account("0x" + "ef" * 20),),
    terms=Hash32("0x" + "03" * 32),
)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_reference_is_to_a_known_contract(contract: str) -> None:
    assert set(references_of(contract).values()) <= {*CONTRACTS, PAYMENT_TOKEN}


def test_every_expected_reference_has_a_getter() -> None:
    getters = {getter for contract in CONTRACTS for getter in references_of(contract)}
    assert getters == set(REFERENCES)
    assert references_of("Generation").keys() == {"operators", "settlement", "disputes"}
    assert references_of("MarketGovernor")["token"] == "MarketToken"
    assert set(GENERATION) < set(CONTRACTS)


def test_every_function_with_a_role_exists() -> None:
    for contract, function in ROLE_OF_FUNCTION:
        assert len(interface(contract).selector(function)) == 4


def test_a_record_survives_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deployments" / "1.json"
    write_record(RECORD, path)
    assert read_record(path) == RECORD


@pytest.mark.parametrize(
    "change",
    [{"addresses": {"Settlement": "0xAB"}}, {"block_number": "5"}, {"extra": 1}, {"guardians": 7}, None],
)
def test_a_broken_record_is_refused(tmp_path: Path, change: dict[str, object] | None) -> None:
    path = tmp_path / "1.json"
    with pytest.raises(NotFound, match="no deployment record"):
        read_record(path)
    write_record(RECORD, path)
    path.write_text("" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInput, match="is not a deployment record"):
        read_record(path)
