"""A record, and a chain that was started again: the same id, and other blocks."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import local_account
from backend.deployment import command
from backend.deployment.deploy import launch
from backend.deployment.record import Record, check_chain, read_record, write_record
from backend.deployment.sources import write_sources
from backend.domain.errors import InvalidInput
from backend.settings import Settings
from tests.support.deployment import DEPLOYER, production_terms
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from pathlib import Path

TERMS = production_terms(some_account("payment token"))
RECORD = Record(
    chain_id=31337,
    block_number=5,
    block_hash=some_hash("block 5"),
    addresses={},
    blocks={},
    transactions={},
    profile="local",
    deployer=DEPLOYER.account,
    guardians=(),
    curators=(),
    terms=TERMS.digest,
)
REFUSED = "chain at http://node is not the deployment's: .* move its record away if that chain is gone"


def node(block_hash: str | None = some_hash("block 5"), chain_id: int = 31337) -> Any:
    """It sends nothing."""
    block = None if block_hash is None else SimpleNamespace(hash=block_hash)
    return SimpleNamespace(chain_id=chain_id, block=lambda _: block, rpc=SimpleNamespace(name="http://node"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_record(RECORD, tmp_path / "31337.json")
    return tmp_path


def test_a_record_is_of_the_chain_with_its_id_and_block() -> None:
    check_chain(node(), RECORD)


@pytest.mark.parametrize("other", [node(some_hash("another block 5")), node(None), node(chain_id=1)])
def test_another_chain_is_not_the_records(other: Any) -> None:
    with pytest.raises(InvalidInput, match=REFUSED):
        check_chain(other, RECORD)


def test_a_market_of_a_chain_that_is_gone_is_not_returned_as_deployed(folder: Path) -> None:
    assert launch(node(), DEPLOYER, TERMS, folder, 0) == RECORD
    with pytest.raises(InvalidInput, match=REFUSED):
        launch(node(None), DEPLOYER, TERMS, folder, 0)
    assert read_record(folder / "31337.json") == RECORD


def test_votes_are_delegated_on_the_records_chain_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = SimpleNamespace(open=lambda _: DEPLOYER)
    monkeypatch.setattr(command, "_keystore", lambda _: keys)
    monkeypatch.setattr(command, "_node", lambda _: nullcontext(node(None)))
    with pytest.raises(InvalidInput, match=REFUSED):
        command.delegate(Settings(home=folder), folder / "31337.json", local_account(3).account, "")


def test_sources_are_written_on_the_records_chain_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=REFUSED):
        write_sources(node(None), RECORD, tmp_path / "sources")
    assert not (tmp_path / "sources").exists()
