"""No proof convicts an honest batch, for any openings and witnesses."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.chain.client import ChainClient
from backend.domain.batch import OperatorLedger
from backend.domain.judging.case import Right, Wrong
from backend.domain.money import UNIT
from tests.support.corruption import overcharge, reprice
from tests.support.dishonest_operator import Draft, case_of, try_to_convict
from tests.support.dispute_harness import DisputeHarness
from tests.support.invalid_proofs import InvalidProofs
from tests.support.servers import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment
    from tests.support.dishonest_operator import DisputedBatch

seeds = st.integers(0, 1 << 32)


@pytest.fixture(scope="module")
def harness(hardhat_node: LocalNode, deployed: Deployment) -> Iterator[DisputeHarness]:
    with snapshot(hardhat_node.url):
        chain = ChainClient.connect(hardhat_node.url, deployed)
        yield DisputeHarness(chain)
        chain.close()


def honest(harness: DisputeHarness, random: Random) -> tuple[DisputedBatch, OperatorLedger]:
    """One after none, after another, after a final one with claims, or after a wrong one that was voided and
    refunded.
    """
    ledger, parent = OperatorLedger(), None
    past = random.choice(["none", "parent", "claims", "refund"])
    if past == "refund":
        refunded(harness, random)
    if past in {"parent", "claims"}:
        first = harness.factory.batch(random, ledger, 2)
        parent = harness.commit(Draft.of(first))
        ledger = first.after(parent.header)
    if past == "claims" and parent is not None:
        harness.finalise(parent)
        for key, value in parent.draft.balances:
            if value >= UNIT:
                harness.claim(parent, key)
    draft = Draft.of(harness.factory.batch(random, ledger, random.choice([1, 1, 2, 5])))
    return harness.commit(draft, parent), ledger


def refunded(harness: DisputeHarness, random: Random) -> None:
    draft = Draft.of(harness.factory.batch(random, OperatorLedger(), 2))
    random.choice([reprice, overcharge])(random, draft, harness.factory)
    disputed = harness.commit(draft)
    end = try_to_convict(case_of(disputed, OperatorLedger()), disputed, harness.factory).end
    assert isinstance(end, Wrong)
    harness.prove(end.proof)
    harness.refund(disputed)


def assert_stands(harness: DisputeHarness, seed: int, num_proofs: int) -> None:
    random = Random(seed)
    with harness.undone():
        disputed, ledger = honest(harness, random)
        case = case_of(disputed, ledger, harness.factory.claimed)
        assert isinstance(try_to_convict(case, disputed, harness.factory).end, Right)
        for proof in InvalidProofs(random, disputed, harness.factory).proofs(num_proofs):
            assert not harness.convicts(proof), proof


@settings(max_examples=15)
@given(seeds)
def test_no_proof_convicts_an_honest_batch(harness: DisputeHarness, seed: int) -> None:
    assert_stands(harness, seed, 24)


@pytest.mark.deep
@pytest.mark.timeout(1800)
@settings(max_examples=200)
@given(seeds)
def test_no_proof_convicts_many_honest_batches(harness: DisputeHarness, seed: int) -> None:
    assert_stands(harness, seed, 70)
