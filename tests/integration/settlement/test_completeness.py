"""For every wrong batch the judge finds a proof that the contract accepts."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.chain.client import ChainClient
from backend.domain.batch import CommitTerms, OperatorLedger
from backend.domain.disputes.proofs import BelowClaimedProof, WrongBalanceProof, WrongEntryProof
from backend.domain.judging.case import Right, Undecided, Wrong
from backend.domain.judging.judge import judge
from backend.domain.judging.withheld_trees import account_of
from tests.support.corruption import ALL, PUBLISHING
from tests.support.dishonest_operator import (
    MAX_ROUNDS,
    DisputedBatch,
    Draft,
    Outcome,
    Unanswered,
    case_of,
    try_to_convict,
)
from tests.support.dispute_harness import DisputeHarness
from tests.support.servers import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment
    from backend.domain.judging.case import Case

seeds = st.integers(0, 1 << 32)


@pytest.fixture(scope="module")
def harness(hardhat_node: LocalNode, deployed: Deployment) -> Iterator[DisputeHarness]:
    with snapshot(hardhat_node.url):
        chain = ChainClient.connect(hardhat_node.url, deployed)
        yield DisputeHarness(chain)
        chain.close()


def honest(
    harness: DisputeHarness, random: Random, count: int, *, has_parent: bool
) -> tuple[Draft, DisputedBatch | None, OperatorLedger]:
    """An honest draft on top of what is committed now."""
    parent, ledger = None, OperatorLedger()
    if has_parent:
        first = harness.factory.batch(random, ledger, 2)
        parent = harness.commit(Draft.of(first))
        ledger = first.after(parent.header)
    return Draft.of(harness.factory.batch(random, ledger, count)), parent, ledger


def assert_convicted(harness: DisputeHarness, outcome: Outcome, disputed: DisputedBatch) -> None:
    end = outcome.end
    assert not isinstance(end, Right), "acquitted"
    if isinstance(end, Wrong):
        assert harness.convicts(end.proof), end
    else:
        assert isinstance(end, Unanswered)
        harness.demand(disputed, end.tree, end.keys)
        assert harness.is_voided_unanswered(disputed, end.tree, end.missing)


def assert_caught(
    harness: DisputeHarness, random: Random, names: list[str], count: int, *, has_parent: bool
) -> None:
    with harness.undone():
        draft, parent, ledger = honest(harness, random, count, has_parent=has_parent)
        before, receipts = Draft.of(draft.batch).commit(CommitTerms()).header, list(draft.receipts)
        for name in names:
            ALL[name](random, draft, harness.factory)
        random.choice(PUBLISHING)(draft, receipts)
        shown = draft.receipts if draft.published is None else draft.published
        is_same = draft.commit(CommitTerms()).header == before and all(map(harness.factory.is_signed, shown))
        disputed = harness.commit(draft, parent)
        known = None if parent is not None and random.random() < 0.3 else ledger
        outcome = try_to_convict(case_of(disputed, known), disputed, harness.factory)
        if is_same:
            assert isinstance(outcome.end, Right)
        else:
            assert_convicted(harness, outcome, disputed)


@pytest.mark.parametrize("name", ALL)
def test_a_corrupted_batch_is_convicted(harness: DisputeHarness, name: str) -> None:
    for seed in range(2):
        random = Random(f"{name} {seed}")
        assert_caught(harness, random, [name], random.randint(1, 5), has_parent=seed == 1)


@settings(max_examples=15)
@given(st.integers(0, 1 << 32), st.lists(st.sampled_from(sorted(ALL)), min_size=3, max_size=3), st.booleans())
def test_a_batch_corrupted_in_threes_is_convicted(
    harness: DisputeHarness, seed: int, names: list[str], has_parent: bool
) -> None:
    random = Random(seed)
    assert_caught(harness, random, names, random.randint(1, 6), has_parent=has_parent)


def converse(harness: DisputeHarness, case: Case, disputed: DisputedBatch) -> Wrong:
    """Mine demands and answers, and decode the evidence from their calldata."""
    for _ in range(MAX_ROUNDS):
        judged = judge(case, harness.factory, harness.factory.terms, harness.factory.is_signed)
        if isinstance(judged, Wrong):
            return judged
        assert isinstance(judged, Undecided)
        shown = dict(case.answers)
        for tree, keys in judged.demands:
            harness.demand(disputed, tree, keys)
            for key in keys:
                answer = disputed.answer(tree, key, harness.factory)
                assert answer is not None
                shown[tree, key] = harness.answer(disputed, tree, key, answer)
            assert harness.num_open(disputed) == 0
        case = replace(case, answers=shown)
    raise AssertionError("no end")


def test_demands_reveal_withheld_data_and_hidden_entries(harness: DisputeHarness) -> None:
    random = Random(8)
    with harness.undone():
        draft, parent, ledger = honest(harness, random, 4, has_parent=True)
        ALL["entries: move_value"](random, draft, harness.factory)
        draft.published = None
        disputed = harness.commit(draft, parent)
        wrong = converse(harness, case_of(disputed, ledger), disputed)
        assert isinstance(wrong.proof, WrongEntryProof)
        assert harness.convicts(wrong.proof)


def test_demands_reveal_a_balance_on_top_of_a_withheld_parent(
    harness: DisputeHarness,
) -> None:
    random = Random(9)
    with harness.undone():
        draft, parent, _ = honest(harness, random, 2, has_parent=True)
        ALL["balances: move_value"](random, draft, harness.factory)
        disputed = harness.commit(draft, parent)
        wrong = converse(harness, case_of(disputed, None), disputed)
        assert isinstance(wrong.proof, WrongBalanceProof)
        assert harness.convicts(wrong.proof)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_balance_below_a_claim_is_convicted_though_it_follows_from_the_parent(
    harness: DisputeHarness, *, is_known: bool
) -> None:
    """A final batch that nobody proved wrong moved what the richest account had claimed."""
    random, factory = Random(11), harness.factory
    with harness.undone():
        draft, _, _ = honest(harness, random, 40, has_parent=False)
        paid = harness.commit(draft)
        harness.finalise(paid)
        robbed = max(draft.balances, key=lambda leaf: leaf[1])[0]
        harness.claim(paid, robbed)
        theft = Draft.of(factory.batch(random, draft.batch.after(paid.header), 1))
        stolen = dict(theft.balances).pop(robbed)
        (thief, value), *others = [leaf for leaf in theft.balances if leaf[0] != robbed]
        theft.balances = [(thief, value + stolen), *others]
        unproved = harness.commit(theft, paid)
        harness.finalise(unproved)
        moved = {account_of(key): value for key, value in theft.balances}
        ledger = replace(theft.batch.after(unproved.header), balances=moved)
        disputed = harness.commit(Draft.of(factory.batch(random, ledger, 1)), unproved)
        case = case_of(disputed, ledger if is_known else None, factory.claimed)
        assert isinstance(try_to_convict(replace(case, claimed={}), disputed, factory).end, Right)
        end = try_to_convict(case, disputed, factory).end
        assert isinstance(end, Wrong)
        assert isinstance(end.proof, BelowClaimedProof)
        assert harness.convicts(end.proof)


def test_a_version_registered_after_the_commit_convicts(harness: DisputeHarness) -> None:
    """Its id is the hash of its record, so that it can be named before it is there."""
    factory, random = replace(harness.factory), Random(10)
    late = replace(factory.records[0], name="late")
    factory.records = [late]
    with harness.undone():
        draft = Draft.of(factory.batch(random, OperatorLedger(), 1))
        disputed = harness.commit(draft)
        factory.registered = {}
        unknown = try_to_convict(case_of(disputed, OperatorLedger()), disputed, factory).end
        assert isinstance(unknown, Wrong)
        assert harness.convicts(unknown.proof)
        harness.sleep(2)
        harness.register(factory, late)
        known = try_to_convict(case_of(disputed, OperatorLedger()), disputed, factory).end
        assert isinstance(known, Wrong)
        assert known.finding.what == "version_id"
        assert harness.convicts(known.proof)


@pytest.mark.deep
@pytest.mark.timeout(1800)
@settings(max_examples=1000)
@given(
    seeds,
    st.lists(st.sampled_from(sorted(ALL)), min_size=1, max_size=3),
    st.integers(1, 20),
    st.booleans(),
)
def test_many_corrupted_batches_are_convicted(
    harness: DisputeHarness, seed: int, names: list[str], count: int, has_parent: bool
) -> None:
    assert_caught(harness, Random(seed), names, count, has_parent=has_parent)
