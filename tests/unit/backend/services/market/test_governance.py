"""What the chain is asked for states of proposals and for the set that a change is based on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import Unavailable
from backend.services.market.governance import Governance, ProposalState
from tests.support.chain_events import proposed, take_in
from tests.support.market import some_account

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

STATES = list(ProposalState)


class Governor:
    """States by proposal at the latest block, and at the confirmed one; counts what is read of each."""

    def __init__(self, database: Database) -> None:
        self.latest: dict[int, ProposalState] = {}
        self.confirmed: dict[int, ProposalState] = {}
        self.reads: list[tuple[int, int | None]] = []
        self.governance = Governance(self, database)  # type: ignore[arg-type]

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> int:
        assert (contract, function) == ("MarketGovernor", "state")
        self.reads.append((args[0], block))
        states = self.latest if block is None else self.confirmed
        if args[0] not in states:
            raise Unavailable("missing trie node")
        return STATES.index(states[args[0]])

    def shown(self) -> list[ProposalState]:
        self.reads.clear()
        return [one.state for one in self.governance.proposals(None, 5)]


@pytest.fixture
def governor(sqlite_database: Database) -> Governor:
    with sqlite_database.begin() as tx:
        take_in(tx, proposed(1), proposed(2))
    return Governor(sqlite_database)


def test_the_state_of_what_ended_is_not_read_again(governor: Governor) -> None:
    ended, active = ProposalState.EXECUTED, ProposalState.ACTIVE
    governor.latest = governor.confirmed = {1: ended, 2: active}
    assert governor.shown() == [ended, active]
    assert governor.reads == [(1, None), (1, 1), (2, None)]
    assert governor.shown() == [ended, active]
    assert governor.reads == [(2, None)]
    assert governor.governance.proposal(1).state is ended


@pytest.mark.parametrize("confirmed", [{1: ProposalState.QUEUED}, {1: ProposalState.DEFEATED}, {}])
def test_an_end_that_a_reorganisation_may_undo_is_read_again(
    governor: Governor, confirmed: dict[int, ProposalState]
) -> None:
    """Or whose block the node no longer has."""
    governor.latest, governor.confirmed = {1: ProposalState.EXECUTED, 2: ProposalState.ACTIVE}, confirmed
    governor.shown()
    governor.latest[1] = ProposalState.QUEUED
    assert governor.shown()[0] is ProposalState.QUEUED


class ChangingParameters:
    """Another set becomes current with each question."""

    def __init__(self) -> None:
        self.current_id = 0
        self.appended: tuple[int, dict[str, int]] | None = None

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        assert block is None
        self.current_id += 1
        if contract == "MarketGovernor":
            return 1
        number = args[0] if args else self.current_id
        return number if function == "currentId" else {"feePpm": 100 * number, "stakeCoverPpm": 10 * number}

    def prepare(self, contract: str, function: str, *args: Any, **_: Any) -> Any:
        if function == "append":
            self.appended = args[0], args[1]
        return SimpleNamespace(to=contract, data="0x", decoded={})


def test_a_change_has_all_other_values_of_the_set_that_it_names(sqlite_database: Database) -> None:
    """Else it would undo a change that is executed while it is prepared."""
    parameters: Any = ChangingParameters()
    Governance(parameters, sqlite_database).propose_change(some_account("voter"), {"feePpm": 5}, "")
    number, values = parameters.appended
    assert values == {"feePpm": 5, "stakeCoverPpm": 10 * number}
