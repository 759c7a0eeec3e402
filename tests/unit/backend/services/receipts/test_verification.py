from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.hashing import receipt_id, response_bytes, salted_hash, to_bytes
from backend.domain.ids import ChargeId, ReceiptId
from backend.domain.receipt import Share
from backend.domain.receipt_checks import ReceiptFile, content_check
from backend.services.receipts.verification import Verification
from tests.support.market import Key, recover, some_account, some_hash
from tests.support.settlement_harness import SettlementHarness

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.receipt import SignedReceipt

SALT = some_hash("salt")


@pytest.fixture
def harness(tmp_path: Path) -> SettlementHarness:
    return SettlementHarness(tmp_path)


def shown(harness: SettlementHarness, signed: SignedReceipt) -> ReceiptFile:
    return ReceiptFile(receipt_id(signed.receipt), harness.market.operator, signed, SALT)


def verdicts(harness: SettlementHarness, receipt: ReceiptFile) -> dict[str, bool | None]:
    verification = Verification(harness, harness.auditor(), recover, harness.market.domain)
    return {check.name: check.is_right for check in verification.checks(receipt)}


def settle(harness: SettlementHarness, num_receipts: int = 5) -> list[SignedReceipt]:
    served = [harness.serve() for _ in range(num_receipts)]
    harness.settler().run_once(is_forced=True)
    assert harness.mine()
    return served


ALL = ("hash", "signature", "slices", "charge", "batch")


def test_every_receipt_of_an_honest_batch_is_right_in_every_way(harness: SettlementHarness) -> None:
    for signed in settle(harness):
        assert verdicts(harness, shown(harness, signed)) == dict.fromkeys(ALL, True)


def test_a_receipt_that_waits_for_its_batch_is_right_but_for_that(harness: SettlementHarness) -> None:
    settle(harness)
    found = verdicts(harness, shown(harness, harness.serve()))
    assert found == {**dict.fromkeys(ALL, True), "batch": None}


def test_a_batch_whose_data_is_not_here_leaves_its_place_open(harness: SettlementHarness) -> None:
    (first, *_) = settle(harness)
    harness.blobs.forget(*harness.blobs.pins())
    assert verdicts(harness, shown(harness, first))["batch"] is None


@pytest.mark.parametrize("field", ["cumulative", "charge", "prompt_tokens", "completion_tokens", "served_at"])
def test_a_changed_number_is_not_what_was_signed(harness: SettlementHarness, field: str) -> None:
    (signed, *_) = settle(harness)
    changed = replace(signed.receipt, **{field: getattr(signed.receipt, field) + 1})
    kept_id = replace(shown(harness, signed), signed=replace(signed, receipt=changed))
    assert verdicts(harness, kept_id)["hash"] is False
    found = verdicts(harness, shown(harness, replace(signed, receipt=changed)))
    assert found["signature"] is False
    assert found["hash"] is True
    assert found["batch"] in (False, None)
    assert found["charge"] is (field in {"cumulative", "served_at"})


def test_a_receipt_without_a_charge_is_not_that_of_the_charge_that_the_payer_got(
    harness: SettlementHarness,
) -> None:
    file = shown(harness, harness.serve())
    verification = Verification(harness, harness.auditor(), recover, harness.market.domain)
    *_, charged = verification.checks(file, ChargeId(some_hash("charge")))
    assert (charged.name, charged.is_right) == ("charged", False)


def test_another_id_is_wrong_alone(harness: SettlementHarness) -> None:
    (signed, *_) = settle(harness)
    found = verdicts(harness, replace(shown(harness, signed), id=ReceiptId(some_hash("another"))))
    assert found == {**dict.fromkeys(ALL, True), "hash": False}


def test_a_strangers_signature_and_a_malformed_one_are_wrong(harness: SettlementHarness) -> None:
    (signed, *_) = settle(harness)
    forged = Key("another key").sign(harness.market.domain.receipt_digest(signed.receipt))
    for signature in (forged, "0x" + "00" * 65):
        assert verdicts(harness, shown(harness, replace(signed, signature=signature)))["signature"] is False


def test_an_operator_that_is_not_indexed_leaves_the_signature_open(harness: SettlementHarness) -> None:
    (signed, *_) = settle(harness)
    found = verdicts(harness, replace(shown(harness, signed), operator=some_account("elsewhere")))
    assert found == {**dict.fromkeys(ALL, True), "signature": None, "batch": None}


def test_other_shares_or_versions_than_were_signed_are_wrong(harness: SettlementHarness) -> None:
    signed = next(s for s in settle(harness, 12) if s.slices[0].shares)
    (first, *rest) = signed.slices
    for part in (
        replace(first, shares=(Share(0, 1_000_000),)),
        replace(first, version_id=some_hash("other")),
    ):
        found = verdicts(harness, shown(harness, replace(signed, slices=(part, *rest))))
        assert found == {**dict.fromkeys(ALL, True), "slices": False, "charge": None}


def test_an_operators_second_receipt_for_the_same_money_is_named_an_equivocation(
    harness: SettlementHarness,
) -> None:
    (signed, *_) = settle(harness)
    other = replace(signed.receipt, request_hash=some_hash("another request"))
    digest = harness.market.domain.receipt_digest(other)
    second = replace(signed, receipt=other, signature=harness.market.receipt_key.sign(digest))
    found = verdicts(harness, shown(harness, second))
    assert found == {**dict.fromkeys(ALL, True), "batch": False}


def test_request_and_answer_are_the_receipts_own_or_not(harness: SettlementHarness) -> None:
    body, answer, salt = b'{"model": "x"}', "Hello.", to_bytes(SALT)
    signed = harness.serve()
    hashes = {
        "request_hash": salted_hash(salt, body),
        "response_hash": salted_hash(salt, response_bytes([answer])),
    }
    own = shown(harness, replace(signed, receipt=replace(signed.receipt, **hashes)))
    assert content_check(own, body, [answer]).is_right is True
    assert content_check(own, body + b" ", [answer]).is_right is False
    assert content_check(own, body, ["Hello"]).is_right is False
    assert content_check(replace(own, salt=None), body, [answer]).is_right is None


def test_a_signature_of_a_key_that_was_retired_after_the_batch_is_right(harness: SettlementHarness) -> None:
    (signed, *_) = settle(harness)
    harness.chain.retired = {harness.market.receipt_key.account: harness.chain.time + 1}
    assert verdicts(harness, shown(harness, signed)) == dict.fromkeys(ALL, True)


def test_finding4_an_unsettled_receipt_of_a_retired_key_is_left_open(harness: SettlementHarness) -> None:
    signed = harness.serve()
    harness.chain.retired = {harness.market.receipt_key.account: harness.chain.time}
    assert verdicts(harness, shown(harness, signed))["signature"] is None
    following = Key("next receipt key")
    harness.chain.keys = [following.account]
    signature = following.sign(harness.market.domain.receipt_digest(signed.receipt))
    assert verdicts(harness, shown(harness, replace(signed, signature=signature)))["signature"] is True
