from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.chain.indexer import Indexer
from backend.chain.keys import local_account
from backend.domain.chain import Reverted
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.governance import restrict
from backend.domain.transactions import Call
from backend.services.market.governance import MAX_DECODED_BYTES, Ballot, Governance, ProposalState
from tools.wallet import send

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database

VOTER, OUTSIDER = local_account(8), local_account(9)


PAUSE = Call("Parameters", "pauseCommits", (1,))


def wait(chain: ChainClient, seconds: int) -> None:
    chain.node.rpc.request("evm_increaseTime", seconds)
    chain.node.rpc.request("hardhat_mine", "0x1")


def test_a_vote_changes_the_fee(chain: ChainClient, database: Database) -> None:
    governance = Governance(chain, database)
    indexer = Indexer(chain, database.event_log, chain.deployment, confirmations=0)
    power = governance.voting_power(VOTER.account)
    assert power.balance > power.votes == 0
    send(chain, VOTER, governance.delegate(VOTER.account))
    assert governance.voting_power(VOTER.account).votes == power.balance
    wait(chain, 1)  # votes count from the second after

    before = chain.call("Parameters", "current")
    proposed = governance.propose_change(VOTER.account, {"feePpm": 20_000}, "Lower the fee to two per cent")
    send(chain, VOTER, proposed.transaction)
    indexer.catch_up()
    status = governance.proposal(proposed.proposal_id)
    assert status.state == ProposalState.PENDING
    assert status.proposal.text == "Lower the fee to two per cent"
    (call,) = status.calls
    assert (call["contract"], call["function"]) == ("Parameters", "append")
    assert (call["args"]["parent"], call["args"]["set"]["feePpm"]) == ("0", "20000")

    wait(chain, 3)
    send(chain, VOTER, governance.vote(VOTER.account, proposed.proposal_id, Ballot.FOR, "cheaper"))
    wait(chain, 10)
    send(chain, OUTSIDER, governance.queue(OUTSIDER.account, proposed.proposal_id))
    wait(chain, 2)
    send(chain, OUTSIDER, governance.execute(OUTSIDER.account, proposed.proposal_id))
    indexer.catch_up()
    (status,) = governance.proposals(None, 2)
    assert status.state == ProposalState.EXECUTED
    assert (status.proposal.votes_for, status.proposal.votes_against) == (power.balance, 0)
    with database.read() as tx:
        first, latest = tx.chain.parameter_set(0), tx.chain.latest_parameter_set()
    assert first is not None
    assert latest is not None
    assert (first.fee_ppm, latest.fee_ppm, latest.id) == (50_000, 20_000, 1)
    assert chain.call("Parameters", "current") == before | {"feePpm": latest.fee_ppm}


def test_no_other_account_can_propose_a_copy(chain: ChainClient, database: Database) -> None:
    """It could cancel the copy, and what was cancelled cannot be proposed again."""
    governance = Governance(chain, database)
    send(chain, VOTER, governance.delegate(VOTER.account))
    wait(chain, 1)
    description = "Pause" + restrict("", OUTSIDER.account)  # a text that is itself a copy
    proposed = governance.propose(VOTER.account, [PAUSE], description)
    copied = proposed.transaction.decoded["args"].values()
    with pytest.raises(Reverted) as refused:
        chain.prepare("MarketGovernor", "propose", *copied, sender=OUTSIDER.account)
    assert refused.value.error == "GovernorRestrictedProposer"
    send(chain, VOTER, proposed.transaction)
    Indexer(chain, database.event_log, chain.deployment, confirmations=0).catch_up()
    assert governance.proposal(proposed.proposal_id).proposal.text == "Pause"


def test_calls_that_cannot_be_decoded_are_shown_as_they_are(chain: ChainClient, database: Database) -> None:
    """Anyone with enough votes can propose them, and the other proposals stay in the list."""
    governance = Governance(chain, database)
    send(chain, VOTER, governance.delegate(VOTER.account))
    wait(chain, 1)
    parameters = chain.address("Parameters")
    pause = chain.prepare("Parameters", "pauseCommits", 1).data
    datas = [pause, pause[:12], pause + "00" * MAX_DECODED_BYTES]
    proposed = chain.prepare(
        "MarketGovernor", "propose", [parameters] * 3, [0] * 3, datas, "Pause", sender=VOTER.account
    )
    send(chain, VOTER, proposed)
    Indexer(chain, database.event_log, chain.deployment, confirmations=0).catch_up()
    (status,) = governance.proposals(None, 2)
    decoded, *others = status.calls
    assert (decoded["contract"], decoded["function"]) == ("Parameters", "pauseCommits")
    assert others == [{"to": parameters, "data": data} for data in datas[1:]]


def test_without_delegated_votes_a_proposal_is_refused(chain: ChainClient, sqlite_database: Database) -> None:
    governance = Governance(chain, sqlite_database)
    with pytest.raises(Reverted) as refused:
        governance.propose(VOTER.account, [PAUSE], "Pause")
    assert refused.value.error == "GovernorInsufficientProposerVotes"


def test_an_unknown_proposal_is_not_found(chain: ChainClient, sqlite_database: Database) -> None:
    with pytest.raises(NotFound, match="no proposal 1"):
        Governance(chain, sqlite_database).queue(VOTER.account, 1)


def test_an_empty_proposal_is_refused(chain: ChainClient, sqlite_database: Database) -> None:
    with pytest.raises(InvalidInput, match="at least one call"):
        Governance(chain, sqlite_database).propose(VOTER.account, [], "nothing")
    with pytest.raises(InvalidInput, match="and a description"):
        Governance(chain, sqlite_database).propose(VOTER.account, [PAUSE], restrict("", VOTER.account))


def test_an_unknown_parameter_is_refused_by_name(chain: ChainClient, sqlite_database: Database) -> None:
    with pytest.raises(InvalidInput, match="no parameter fee; the parameters are treasury, feePpm"):
        Governance(chain, sqlite_database).propose_change(VOTER.account, {"fee": 1}, "")
