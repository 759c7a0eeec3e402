"""No honest batch falls by any proof, whatever openings and witnesses are tried."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.chain.client import ChainClient
from backend.domain.batch import OperatorLedger
from backend.domain.judging.case import Right, Wrong
from tests.support.accused import Draft, case_of, try_to_convict
from tests.support.corruption import overcharge, reprice
from tests.support.court import CHALLENGER, Court
from tests.support.hostile import Accuser
from tests.support.servers import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment
    from tests.support.accused import Accused

seeds = st.integers(0, 1 << 32)


@pytest.fixture(scope="module")
def court(hardhat_node: LocalNode, deployed: Deployment) -> Iterator[Court]:
    with snapshot(hardhat_node.url):
        chain = ChainClient.connect(hardhat_node.url, deployed)
        yield Court(chain)
        chain.close()


def honest(court: Court, random: Random) -> tuple[Accused, OperatorLedger]:
    """One after none, after another, or after a wrong one that was voided and refunded."""
    ledger, parent = OperatorLedger(), None
    past = random.choice(["none", "parent", "refund"])
    if past == "refund":
        refunded(court, random)
    if past == "parent":
        first = court.shop.batch(random, ledger, 2)
        parent = court.commit(Draft.of(first))
        ledger = first.after(parent.header)
    draft = Draft.of(court.shop.batch(random, ledger, random.choice([1, 1, 2, 5])))
    return court.commit(draft, parent), ledger


def refunded(court: Court, random: Random) -> None:
    draft = Draft.of(court.shop.batch(random, OperatorLedger(), 2))
    random.choice([reprice, overcharge])(random, draft, court.shop)
    accused = court.commit(draft)
    end = try_to_convict(case_of(accused, OperatorLedger()), accused, court.shop).end
    assert isinstance(end, Wrong)
    court.send(CHALLENGER.account, "Disputes", end.proof.function, *end.proof.args)
    court.refund(accused)


def assert_stands(court: Court, seed: int, num_proofs: int) -> None:
    random = Random(seed)
    with court.undone():
        accused, ledger = honest(court, random)
        assert isinstance(try_to_convict(case_of(accused, ledger), accused, court.shop).end, Right)
        for proof in Accuser(random, accused, court.shop).proofs(num_proofs):
            assert not court.convicts(proof), proof


@settings(max_examples=15)
@given(seeds)
def test_an_honest_batch_stands_whatever_is_tried(court: Court, seed: int) -> None:
    assert_stands(court, seed, 21)


@pytest.mark.deep
@pytest.mark.timeout(1800)
@settings(max_examples=200)
@given(seeds)
def test_many_honest_batches_stand_whatever_is_tried(court: Court, seed: int) -> None:
    assert_stands(court, seed, 70)
