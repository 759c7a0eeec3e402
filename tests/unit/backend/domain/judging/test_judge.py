from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.batch import CommitTerms, OperatorLedger
from backend.domain.disputes.proofs import holds
from backend.domain.disputes.witnesses import Tree, balance_key
from backend.domain.judging.case import Right, Undecided, Wrong
from backend.domain.judging.judge import judge
from backend.domain.judging.known_receipts import MAX_UNKNOWN
from backend.domain.judging.withheld_trees import account_of
from tests.support.batch_factory import BatchFactory, in_memory_factory
from tests.support.corruption import ALL, PUBLISHING
from tests.support.dishonest_operator import (
    DisputedBatch,
    Draft,
    Outcome,
    Unanswered,
    case_of,
    try_to_convict,
)

if TYPE_CHECKING:
    from tests.support.corruption import Corruption

FACTORY = in_memory_factory()
AT = 1_790_000_100


def honest(
    random: Random, count: int, *, has_parent: bool
) -> tuple[Draft, DisputedBatch | None, OperatorLedger]:
    parent, ledger = None, OperatorLedger()
    if has_parent:
        first = FACTORY.batch(random, ledger, 3)
        parent = Draft.of(first).commit(CommitTerms(AT - 10, AT + 50))
        ledger = first.after(parent.header)
    return Draft.of(FACTORY.batch(random, ledger, count)), parent, ledger


def is_same(disputed: DisputedBatch, draft: Draft) -> bool:
    """Whether a corruption had no effect."""
    other = draft.commit(CommitTerms.of(disputed.header), disputed.parent)
    return other.header == disputed.header


def assert_convicted(outcome: Outcome, disputed: DisputedBatch, factory: BatchFactory = FACTORY) -> None:
    assert not isinstance(outcome.end, Right), "acquitted"
    if isinstance(outcome.end, Wrong):
        assert holds(outcome.end.proof, factory), outcome.end
    else:
        assert isinstance(outcome.end, Unanswered)


@settings(max_examples=40)
@given(st.integers(0, 1 << 32), st.integers(1, 8), st.booleans())
def test_an_honest_batch_is_right(seed: int, count: int, has_parent: bool) -> None:
    draft, parent, ledger = honest(Random(seed), count, has_parent=has_parent)
    disputed = draft.commit(CommitTerms(AT, AT + 60), parent)
    outcome = try_to_convict(case_of(disputed, ledger), disputed, FACTORY)
    assert isinstance(outcome.end, Right)
    assert outcome.num_rounds == 0
    assert outcome.end.batch.after(disputed.header) == draft.batch.after(disputed.header)


@settings(max_examples=20)
@given(st.integers(0, 1 << 32), st.integers(1, 8))
def test_a_withheld_honest_batch_is_right_once_all_demands_are_answered(seed: int, count: int) -> None:
    draft, parent, _ = honest(Random(seed), count, has_parent=True)
    draft.published = None
    disputed = draft.commit(CommitTerms(AT, AT + 60), parent)
    outcome = try_to_convict(case_of(disputed, None), disputed, FACTORY)
    assert isinstance(outcome.end, Right)
    assert outcome.end.batch.balances == draft.batch.balances


@pytest.mark.parametrize("knows_parent", [True, False])
@pytest.mark.parametrize("stolen", [0, 5])
@pytest.mark.parametrize("keys", [(1 << 160,), (1 << 164, (1 << 256) - 1), (1 << 160, 1 << 161, 1 << 255)])
def test_a_final_parent_with_keys_of_no_account_does_not_end_the_judging(
    keys: tuple[int, ...], stolen: int, knows_parent: bool
) -> None:
    random = Random(3)
    first = FACTORY.batch(random, OperatorLedger(), 3)
    wrong = Draft.of(first)
    key, value = wrong.balances[0]
    wrong.balances[0] = key, value - len(keys)
    wrong.balances += [(each, 1) for each in keys]
    parent = wrong.commit(CommitTerms(AT - 10, AT + 50))
    draft = Draft.of(FACTORY.batch(random, first.after(parent.header), 4))
    (low, received), *others, (high, paid) = draft.balances
    draft.balances = [(low, received - len(keys) + stolen), *others, (high, paid - stolen)]
    draft.balances += [(each, 1) for each in keys]
    disputed = draft.commit(CommitTerms(AT, AT + 60), parent)
    ledger = None
    if knows_parent:
        balances = {account_of(each): amount for each, amount in wrong.balances}
        ledger = replace(first.after(parent.header), balances=balances)
    outcome = try_to_convict(case_of(disputed, ledger), disputed, FACTORY)
    if stolen:
        assert_convicted(outcome, disputed)
    else:
        assert isinstance(outcome.end, Right)
        assert {balance_key(a): v for a, v in outcome.end.batch.balances.items()} == dict(draft.balances)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=12)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 8), has_parent=st.booleans())
def test_every_single_corruption_is_convicted(name: str, seed: int, count: int, has_parent: bool) -> None:
    assert_caught(Random(seed), [ALL[name]], count, has_parent=has_parent)


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), st.integers(1, 8), st.booleans())
def test_every_three_corruptions_are_convicted(seed: int, count: int, has_parent: bool) -> None:
    random = Random(seed)
    assert_caught(random, random.choices(list(ALL.values()), k=3), count, has_parent=has_parent)


def assert_caught(random: Random, corruptions: list[Corruption], count: int, *, has_parent: bool) -> None:
    draft, parent, ledger = honest(random, count, has_parent=has_parent)
    receipts = list(draft.receipts)
    for corruption in corruptions:
        corruption(random, draft, FACTORY)
    random.choice(PUBLISHING)(draft, receipts)
    disputed = draft.commit(CommitTerms(AT, AT + 60), parent)
    is_unknown = parent is not None and random.random() < 0.3
    outcome = try_to_convict(case_of(disputed, None if is_unknown else ledger), disputed, FACTORY)
    shown = draft.receipts if draft.published is None else draft.published
    if is_same(disputed, Draft.of(draft.batch)) and all(map(FACTORY.is_signed, shown)):
        assert isinstance(outcome.end, Right)
        return
    assert_convicted(outcome, disputed)


@pytest.mark.parametrize("is_published", [True, False])
def test_a_header_that_states_four_billion_receipts_is_judged_at_once(is_published: bool) -> None:
    """The contract accepts any number; memory and time follow what is published."""
    draft, _, ledger = honest(Random(5), 3, has_parent=False)
    if not is_published:
        draft.published = None
    case = case_of(draft.commit(CommitTerms(AT, AT + 60)), ledger)
    many = replace(case, header=replace(case.header, receipts_count=(1 << 32) - 1))
    judged = judge(many, FACTORY, FACTORY.terms, FACTORY.is_signed)
    assert isinstance(judged, Undecided)
    keys = [key for tree, group in judged.demands if tree is Tree.RECEIPTS for key in group]
    assert keys == list(range(MAX_UNKNOWN))


def test_one_withheld_receipt_among_many_is_found_by_few_demands() -> None:
    """The published receipts are honest; all but one are in the tree."""
    random = Random(4)
    draft, _, ledger = honest(random, 400, has_parent=False)
    published = list(draft.receipts)
    for place in (0, 123, 399):
        corrupted = Draft.of(draft.batch)
        signed = published[place]
        moved = replace(signed.receipt, cumulative=signed.receipt.cumulative + 1)
        corrupted.receipts[place] = FACTORY.signed(moved, signed.slices)
        corrupted.published = published
        disputed = corrupted.commit(CommitTerms(AT, AT + 60))
        outcome = try_to_convict(case_of(disputed, ledger), disputed, FACTORY)
        assert isinstance(outcome.end, Wrong)
        assert (outcome.end.finding.what, outcome.end.finding.receipt) == ("cumulative", place)
        assert holds(outcome.end.proof, FACTORY)
        assert outcome.num_rounds <= 2
        assert outcome.num_keys <= 64 + 8
