"""Every wrong batch has a proof that the contract accepts, and the judge finds it by itself."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.chain.client import ChainClient
from backend.domain.batch import Ledger
from backend.domain.case import Right, Wrong
from tests.support.accused import Accused, Draft, Outcome, Unanswered, case_of, try_to_convict
from tests.support.corruption import ALL, PUBLISHING
from tests.support.court import Court
from tests.support.servers import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment

seeds = st.integers(0, 1 << 32)


@pytest.fixture(scope="module")
def court(hardhat_node: LocalNode, deployed: Deployment) -> Iterator[Court]:
    with snapshot(hardhat_node.url):
        chain = ChainClient.connect(hardhat_node.url, deployed)
        yield Court(chain)
        chain.close()


def honest(
    court: Court, random: Random, count: int, *, has_parent: bool
) -> tuple[Draft, Accused | None, Ledger]:
    """An honest draft on top of what is committed now."""
    parent, ledger = None, Ledger()
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
