"""Rewinds are exact: any history with any rewinds ends in the state of the surviving events alone."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.chain.client import INDEXED
from backend.chain.contracts import interface
from backend.db.projections import RULES
from backend.domain.chain import BlockRef, ChainEvent
from backend.domain.ids import ChannelId, Hash32
from tests.support.chain_events import state_hash
from tests.support.databases import chain_database

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn


def word(value: int) -> str:
    return f"0x{value:064x}"


def account(value: int) -> str:
    return f"0x{value:040x}"


Written = tuple[str, str, dict[str, Any]]
"""Contract, event, arguments."""


@dataclass
class ChainState:
    """The state that determines which events can follow."""

    balances: dict[int, int] = field(default_factory=dict)
    lines: dict[int, int] = field(default_factory=dict)
    spans: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Intervals of each channel's collections, the newest last."""
    next_nonce: int = 0
    """Of the payers' moves."""
    num_contributions: int = 0
    has_proposal: bool = False
    batches: list[int] = field(default_factory=list)
    """Names of batches that are not void; a batch's number is its index plus one."""
    fallen: list[tuple[int, int]] = field(default_factory=list)
    """Numbers and names of batches to refund."""
    demands: list[int] = field(default_factory=list)


class EventGenerator:
    """Generates possible events for a few entities of each kind."""

    def __init__(self, draw: DrawFn, state: ChainState) -> None:
        self._draw = draw
        self.state = state

    def event(self) -> Written:
        money = (self._deposit, self._collect, self._move, self._thaw, self._stake)
        batches = (self._commit, self._convict, self._void, self._refund, self._uncollect)
        others = (self._demand, self._answer, self._contribute, self._review, self._vote)
        return self._draw(st.sampled_from((*money, *batches, *others)))()

    def _amount(self, most: int = 10**30) -> int:
        return self._draw(st.integers(1, most))

    def _deposit(self) -> Written:
        channel = self._draw(st.integers(1, 3))
        if channel not in self.state.balances:
            self.state.balances[channel] = 0
            parties = {"payer": account(channel), "operator": account(99), "collector": account(98)}
            return "PaymentVault", "ChannelOpened", {"channelId": word(channel), **parties}
        amount = self._amount()
        self.state.balances[channel] += amount
        return "PaymentVault", "Deposited", {"channelId": word(channel), "amount": amount}

    def _collect(self) -> Written:
        funded = [channel for channel, balance in self.state.balances.items() if balance]
        if not funded:
            return self._deposit()
        channel = self._draw(st.sampled_from(funded))
        amount = self._amount(self.state.balances[channel])
        before = self.state.lines.get(channel, 0)
        self.state.balances[channel] -= amount
        self.state.lines[channel] = before + amount
        self.state.spans.setdefault(channel, []).append((before, before + amount))
        span = {"before": before, "from": before, "until": before + amount}
        return "PaymentVault", "Collected", {"channelId": word(channel), **span}

    def _move(self) -> Written:
        funded = [channel for channel, balance in self.state.balances.items() if balance]
        if not funded:
            return self._deposit()
        channel = self._draw(st.sampled_from(funded))
        amount = self._amount(self.state.balances[channel])
        self.state.balances[channel] -= amount
        self.state.next_nonce += self._draw(st.integers(1, 3))
        moved = {"newChannelId": word(9), "amount": amount, "nonce": self.state.next_nonce - 1}
        return "PaymentVault", "BalanceMoved", {"channelId": word(channel), **moved}

    def _uncollect(self) -> Written:
        collected = [channel for channel, spans in self.state.spans.items() if spans]
        if not collected:
            return self._collect()
        channel = self._draw(st.sampled_from(collected))
        start, until = self.state.spans[channel].pop()
        self.state.balances[channel] += until - start
        self.state.lines[channel] = start
        undone = {"amount": until - start, "collected": start}
        return "PaymentVault", "Refunded", {"channelId": word(channel), **undone}

    def _commit(self) -> Written:
        if self.state.fallen:
            return self._refund()
        # Few names, so that a batch is also committed again under an earlier name.
        name = self._draw(st.sampled_from([n for n in range(1, 9) if n not in self.state.batches] or [9]))
        self.state.batches.append(name)
        args = {"operator": account(99), "batchHash": word(name), "header": {"dataDigest": word(name)}}
        return "Settlement", "BatchCommitted", {**args, "number": len(self.state.batches)}

    def _convict(self) -> Written:
        if not self.state.batches:
            return self._commit()
        number = self._draw(st.integers(1, len(self.state.batches)))
        args = {"operator": account(99), "batchHash": word(self.state.batches[number - 1]), "number": number}
        return "Disputes", "BatchConvicted", {**args, "proof": "0xd831810b", "challenger": account(7)}

    def _void(self) -> Written:
        if not self.state.batches:
            return self._commit()
        last = len(self.state.batches)
        first = self._draw(st.integers(1, last))  # those before are final
        convicted = self._draw(st.integers(first, last))
        args = {"operator": account(99), "batchHash": word(self.state.batches[convicted - 1])}
        self.state.fallen += [(n, self.state.batches[n - 1]) for n in range(first, last + 1)]
        del self.state.batches[first - 1 :]
        return "Settlement", "BatchesVoided", {**args, "first": first, "last": last}

    def _refund(self) -> Written:
        if not self.state.fallen:
            return self._void()
        number, name = self.state.fallen.pop()
        args = {"operator": account(99), "batchHash": word(name), "number": number, "amount": 5}
        return "Settlement", "BatchRefunded", args

    def _demand(self) -> Written:
        leaf = len(self.state.demands) + 1
        self.state.demands.append(leaf)
        ids = {
            "leafId": word(leaf),
            "operator": account(99),
            "batchHash": word(self._draw(st.integers(1, 3))),
        }
        terms = {"challenger": account(7), "bond": 10, "deadline": 50, "deadlineBlock": 0}
        return "Disputes", "Demanded", {**ids, "tree": 1, "key": word(leaf), "demand": terms}

    def _answer(self) -> Written:
        if not self.state.demands:
            return self._demand()
        leaf = {"leafId": word(self._draw(st.sampled_from(self.state.demands)))}
        if self._draw(st.booleans()):
            return "Disputes", "BondReturned", {**leaf, "challenger": account(7), "bond": 10}
        ids = {**leaf, "operator": account(99), "batchHash": word(1)}
        return "Disputes", "Answered", {**ids, "call": "0x11"}

    def _thaw(self) -> Written:
        if not self.state.balances:
            return self._deposit()
        channel = self._draw(st.sampled_from(sorted(self.state.balances)))
        return "PaymentVault", "ThawStarted", {"channelId": word(channel), "amount": 5, "thawedAt": 2**64 - 1}

    def _contribute(self) -> Written:
        self.state.num_contributions += 1
        hashes = {"contentHash": word(self.state.num_contributions), "cidDigest": word(7), "licence": word(8)}
        named = {"datanetId": 1, "contributor": account(3)}
        return "DatasetRegistry", "ContributionRecorded", {**named, **hashes, "rows": 4}

    def _review(self) -> Written:
        if not self.state.num_contributions:
            return self._contribute()
        content = self._draw(st.integers(1, self.state.num_contributions))
        named = {"datanetId": 1, "contentHash": word(content)}
        if self._draw(st.booleans()):
            return "DatasetRegistry", "ContributionAdmitted", {**named, "index": content}
        verdict = {"isAccepted": self._draw(st.booleans()), "reason": 0, "curator": account(1)}
        return "DatasetRegistry", "ContributionReviewed", {**named, **verdict}

    def _vote(self) -> Written:
        proposal = 2**255 + 1
        if not self.state.has_proposal:
            self.state.has_proposal = True
            content = {"targets": [], "values": [], "calldatas": [], "signatures": [], "description": "fee"}
            times = {"voteStart": 1, "voteEnd": 9}
            created = {"proposalId": proposal, "proposer": account(8), **content, **times}
            return "MarketGovernor", "ProposalCreated", created
        ballot = {
            "voter": account(8),
            "support": self._draw(st.integers(0, 2)),
            "weight": self._amount(2**200),
        }
        return "MarketGovernor", "VoteCast", {"proposalId": proposal, "reason": "", **ballot}

    def _stake(self) -> Written:
        operator = account(self._draw(st.integers(1, 2)))
        if self._draw(st.booleans()):
            return "OperatorRegistry", "Staked", {"operator": operator, "amount": self._amount()}
        key = account(self._draw(st.integers(1000, 2000)))
        if self._draw(st.booleans()):
            args = {"operator": operator, "key": key, "retiredAt": self._draw(st.integers(1, 9))}
            return "OperatorRegistry", "ReceiptKeyRetired", args
        return "OperatorRegistry", "ReceiptKeyAdded", {"operator": operator, "key": key}


def block(number: int, fork: int) -> BlockRef:
    return BlockRef(number, Hash32(word(number << 32 | fork)), Hash32(word(0)), timestamp=number * 10)


Step = tuple[BlockRef, list[ChainEvent]] | int
"""A block with its events, or a rewind to a height."""


@st.composite
def histories(draw: DrawFn) -> list[Step]:
    steps: list[Step] = []
    worlds = [ChainState()]  # one a height, so that a fork goes on from what its past allows
    for fork in range(draw(st.integers(1, 12))):
        height = len(worlds)
        if height > 1 and draw(st.integers(0, 3)) == 0:
            height = draw(st.integers(1, height - 1))
            del worlds[height:]
            steps.append(height - 1)
            continue
        generator = EventGenerator(draw, deepcopy(worlds[-1]))
        ref = block(height, fork)
        written = [generator.event() for _ in range(draw(st.integers(0, 5)))]
        events = [
            ChainEvent(height, ref.hash, i, Hash32(word(i)), ref.timestamp, contract, name, args)
            for i, (contract, name, args) in enumerate(written)
        ]
        worlds.append(generator.state)
        steps.append((ref, events))
    return steps


def replay(blocks: list[tuple[BlockRef, list[ChainEvent]]], in_one: bool) -> Hash32:
    """State hash of a fresh database after these blocks, taken in one by one or all at once."""
    with chain_database() as database, database.begin() as tx:
        if in_one and blocks:
            tx.event_log.append([e for _, events in blocks for e in events], blocks[-1][0])
        for ref, events in [] if in_one else blocks:
            tx.event_log.append(events, ref)
        return state_hash(tx)


@settings(deadline=None, max_examples=40)
@given(histories())
def test_any_history_with_rewinds_ends_as_the_surviving_events_alone(steps: list[Step]) -> None:
    survivors: list[tuple[BlockRef, list[ChainEvent]]] = []
    with chain_database() as database:
        for step in steps:
            with database.begin() as tx:
                if isinstance(step, int):
                    del survivors[step:]
                    tx.event_log.rewind(survivors[-1][0] if survivors else block(0, 0))
                else:
                    survivors.append(step)
                    tx.event_log.append(step[1], step[0])
        with database.read() as tx:
            state = state_hash(tx)
            assert tx.event_log.num_events() == sum(len(events) for _, events in survivors)
            assert tx.event_log.cursor() == (survivors[-1][0] if survivors else None)
    assert state == replay(survivors, in_one=False) == replay(survivors, in_one=True)


def plain(parameter: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of an ABI type as they come off the chain; integers up to what SQL holds."""
    kind = parameter["type"]
    if kind.endswith("[]"):
        return st.lists(plain(parameter | {"type": kind[:-2]}), max_size=2)
    if kind == "tuple":
        return st.fixed_dictionaries({part["name"]: plain(part) for part in parameter["components"]})
    if kind.startswith("uint"):
        return st.integers(0, min(2 ** int(kind[4:]) - 1, 2**63 - 1))
    simple: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "string": st.text(max_size=9),
        "bytes": st.just("0x" + "11" * 64),
    }
    if kind in simple:
        return simple[kind]
    size = 20 if kind == "address" else 32
    return st.binary(min_size=size, max_size=size).map(lambda raw: "0x" + raw.hex())


@pytest.mark.parametrize(("contract", "name"), sorted(RULES))
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_any_event_may_be_the_first_of_its_entity_and_be_taken_back(
    contract: str, name: str, data: st.DataObject
) -> None:
    (kind,) = [event for event in interface(contract).events.values() if event.name == name]
    args = data.draw(st.fixed_dictionaries({p["name"]: plain(p) for p in kind.inputs}))
    ref = block(1, 0)
    event = ChainEvent(1, ref.hash, 0, Hash32(word(1)), ref.timestamp, contract, name, args)
    with chain_database() as database, database.begin() as tx:
        untouched = state_hash(tx)
        tx.event_log.append([event], ref)
        assert (state_hash(tx) != untouched) is RULES[contract, name].creates
        assert tx.event_log.num_events() == 1
        assert tx.event_log.rewind(block(0, 0)) == 1
        assert state_hash(tx) == untouched


def test_an_entity_that_is_made_late_knows_nothing_of_what_came_before() -> None:
    channel = {"channelId": word(1)}
    parties = {"payer": account(1), "operator": account(2), "collector": account(3)}
    thaw = ("PaymentVault", "ThawStarted", {**channel, "amount": 0, "thawedAt": 9})
    opened = ("PaymentVault", "ChannelOpened", {**channel, **parties})
    deposit = ("PaymentVault", "Deposited", {**channel, "amount": 7})
    with chain_database() as database, database.begin() as tx:
        ref = block(1, 0)
        tx.event_log.append(
            [
                ChainEvent(1, ref.hash, i, ref.hash, 10, *written)
                for i, written in enumerate((thaw, opened, deposit))
            ],
            ref,
        )
        known = tx.chain.channel(ChannelId(Hash32(word(1))))
        assert known is not None
        assert (known.balance, known.thawed_at) == (7, 0)


def test_a_move_lowers_the_balance_until_it_is_rolled_back() -> None:
    channel = {"channelId": word(1)}
    parties = {"payer": account(1), "operator": account(2), "collector": account(3)}
    opened = ("PaymentVault", "ChannelOpened", {**channel, **parties})
    deposit = ("PaymentVault", "Deposited", {**channel, "amount": 7})
    moved = ("PaymentVault", "BalanceMoved", {**channel, "newChannelId": word(2), "amount": 5, "nonce": 4})
    with chain_database() as database, database.begin() as tx:

        def shown() -> tuple[int, int]:
            found = tx.chain.channel(ChannelId(Hash32(word(1))))
            assert found is not None
            return found.balance, found.next_move_nonce

        first, second = block(1, 0), block(2, 0)
        tx.event_log.append(
            [
                ChainEvent(1, first.hash, i, first.hash, 10, *written)
                for i, written in enumerate((opened, deposit))
            ],
            first,
        )
        assert shown() == (7, 0)
        tx.event_log.append([ChainEvent(2, second.hash, 0, second.hash, 20, *moved)], second)
        assert shown() == (2, 5)
        tx.event_log.rewind(first)
        assert shown() == (7, 0)


def test_every_rule_is_for_an_event_that_is_read() -> None:
    for contract, name in RULES:
        assert contract in INDEXED
        assert name in {event.name for event in interface(contract).events.values()}
