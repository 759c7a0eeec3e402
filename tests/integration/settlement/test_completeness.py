"""Every wrong batch has a proof that the contract accepts, and the judge finds it by itself."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.chain.client import ChainClient
from backend.domain.batch import OperatorLedger
from backend.domain.disputes.proofs import WrongBalanceProof, WrongEntryProof
from backend.domain.judging.case import Right, Undecided, Wrong
from backend.domain.judging.judge import judge
from tests.support.accused import MAX_ROUNDS, Accused, Draft, Outcome, Unanswered, case_of, try_to_convict
from tests.support.corruption import ALL, PUBLISHING
from tests.support.court import Court
from tests.support.servers import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment
    from backend.domain.judging.case import Case

seeds = st.integers(0, 1 << 32)


@pytest.fixture(scope="module")
def court(hardhat_node: LocalNode, deployed: Deployment) -> Iterator[Court]:
    with snapshot(hardhat_node.url):
        chain = ChainClient.connect(hardhat_node.url, deployed)
        yield Court(chain)
        chain.close()


def honest(
    court: Court, random: Random, count: int, *, has_parent: bool
) -> tuple[Draft, Accused | None, OperatorLedger]:
    """An honest draft on top of what is committed now."""
    parent, ledger = None, OperatorLedger()
    if has_parent:
        first = court.shop.batch(random, ledger, 2)
        parent = court.commit(Draft.of(first))
        ledger = first.after(parent.header)
    return Draft.of(court.shop.batch(random, ledger, count)), parent, ledger


def assert_convicted(court: Court, outcome: Outcome, accused: Accused) -> None:
    end = outcome.end
    assert not isinstance(end, Right), "acquitted"
    if isinstance(end, Wrong):
        assert court.convicts(end.proof), end
    else:
        assert isinstance(end, Unanswered)
        demand = court.demand(accused, end.tree, end.keys)
        assert court.falls_by_silence(demand, accused)


def assert_caught(court: Court, random: Random, names: list[str], count: int, *, has_parent: bool) -> None:
    with court.undone():
        draft, parent, ledger = honest(court, random, count, has_parent=has_parent)
        before, receipts = Draft.of(draft.batch).commit(0, 0).header, list(draft.receipts)
        for name in names:
            ALL[name](random, draft, court.shop)
        random.choice(PUBLISHING)(draft, receipts)
        shown = draft.receipts if draft.published is None else draft.published
        is_same = draft.commit(0, 0).header == before and all(map(court.shop.is_signed, shown))
        accused = court.commit(draft, parent)
        known = None if parent is not None and random.random() < 0.3 else ledger
        outcome = try_to_convict(case_of(accused, known), accused, court.shop)
        if is_same:
            assert isinstance(outcome.end, Right)
        else:
            assert_convicted(court, outcome, accused)


@pytest.mark.parametrize("name", ALL)
def test_a_corrupted_batch_is_convicted(court: Court, name: str) -> None:
    for seed in range(2):
        random = Random(f"{name} {seed}")
        assert_caught(court, random, [name], random.randint(1, 5), has_parent=seed == 1)


@settings(max_examples=15)
@given(st.integers(0, 1 << 32), st.lists(st.sampled_from(sorted(ALL)), min_size=3, max_size=3), st.booleans())
def test_a_batch_corrupted_in_threes_is_convicted(
    court: Court, seed: int, names: list[str], has_parent: bool
) -> None:
    random = Random(seed)
    assert_caught(court, random, names, random.randint(1, 6), has_parent=has_parent)


def converse(court: Court, case: Case, accused: Accused) -> Wrong:
    """By demands and answers that are mined; what they show is read from their calldata."""
    for _ in range(MAX_ROUNDS):
        judged = judge(case, court.shop, court.shop.terms, court.shop.is_signed)
        if isinstance(judged, Wrong):
            return judged
        assert isinstance(judged, Undecided)
        shown = dict(case.answers)
        for tree, keys in judged.demands:
            demand = court.demand(accused, tree, keys)
            for place, key in enumerate(keys):
                answer = accused.answer(tree, key, court.shop)
                assert answer is not None
                shown[tree, key] = court.answer(demand, place, accused, answer)
            assert court.chain.call("Disputes", "unansweredOf", demand.id) == 0
        case = replace(case, answers=shown)
    raise AssertionError("no end")


def test_withheld_data_and_hidden_entries_are_brought_out_by_real_demands(court: Court) -> None:
    random = Random(8)
    with court.undone():
        draft, parent, ledger = honest(court, random, 4, has_parent=True)
        ALL["entries: move_value"](random, draft, court.shop)
        draft.published = None
        accused = court.commit(draft, parent)
        wrong = converse(court, case_of(accused, ledger), accused)
        assert isinstance(wrong.proof, WrongEntryProof)
        assert court.convicts(wrong.proof)


def test_a_balance_on_top_of_a_withheld_parent_is_brought_out_by_real_demands(court: Court) -> None:
    random = Random(9)
    with court.undone():
        draft, parent, _ = honest(court, random, 2, has_parent=True)
        ALL["balances: move_value"](random, draft, court.shop)
        accused = court.commit(draft, parent)
        wrong = converse(court, case_of(accused, None), accused)
        assert isinstance(wrong.proof, WrongBalanceProof)
        assert court.convicts(wrong.proof)


def test_a_version_registered_after_the_commit_convicts(court: Court) -> None:
    """Its id is the hash of its record, so that it can be named before it is there."""
    shop, random = replace(court.shop), Random(10)
    late = replace(shop.records[0], name="late")
    shop.records = [late]
    with court.undone():
        draft = Draft.of(shop.batch(random, OperatorLedger(), 1))
        accused = court.commit(draft)
        shop.registered = {}
        unknown = try_to_convict(case_of(accused, OperatorLedger()), accused, shop).end
        assert isinstance(unknown, Wrong)
        assert court.convicts(unknown.proof)
        court.sleep(2)
        court.register(shop, late)
        known = try_to_convict(case_of(accused, OperatorLedger()), accused, shop).end
        assert isinstance(known, Wrong)
        assert known.finding.what == "version_id"
        assert court.convicts(known.proof)


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
    court: Court, seed: int, names: list[str], count: int, has_parent: bool
) -> None:
    assert_caught(court, Random(seed), names, count, has_parent=has_parent)
