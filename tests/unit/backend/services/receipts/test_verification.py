from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.hashing import receipt_id, response_bytes, salted_hash, to_bytes
from backend.domain.receipt import Share
from backend.services.receipts.verification import ReceiptFile, Verification, content_check
from tests.support.market import Key, recover, some_account, some_hash
from tests.support.town import Town

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.receipt import SignedReceipt

SALT = some_hash("salt")


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def shown(town: Town, signed: SignedReceipt) -> ReceiptFile:
    return ReceiptFile(receipt_id(signed.receipt), town.market.operator, signed, SALT)


def verdicts(town: Town, receipt: ReceiptFile) -> dict[str, bool | None]:
    verification = Verification(town, town.auditor(), recover, town.market.domain)
    return {check.name: check.is_right for check in verification.checks(receipt)}


def settle(town: Town, num_receipts: int = 5) -> list[SignedReceipt]:
    served = [town.serve() for _ in range(num_receipts)]
    town.settler().run_once(is_forced=True)
    assert town.mine()
    return served


ALL = ("hash", "signature", "slices", "charge", "batch")


def test_every_receipt_of_an_honest_batch_is_right_in_every_way(town: Town) -> None:
    for signed in settle(town):
        assert verdicts(town, shown(town, signed)) == dict.fromkeys(ALL, True)


def test_a_receipt_that_waits_for_its_batch_is_right_but_for_that(town: Town) -> None:
    settle(town)
    found = verdicts(town, shown(town, town.serve()))
    assert found == {**dict.fromkeys(ALL, True), "batch": None}


def test_a_batch_whose_data_is_not_here_leaves_its_place_open(town: Town) -> None:
    (first, *_) = settle(town)
    town.blobs.forget(*town.blobs.pins())
    assert verdicts(town, shown(town, first))["batch"] is None


@pytest.mark.parametrize("field", ["cumulative", "charge", "prompt_tokens", "completion_tokens", "served_at"])
def test_a_changed_number_is_not_what_was_signed(town: Town, field: str) -> None:
    (signed, *_) = settle(town)
    changed = replace(signed.receipt, **{field: getattr(signed.receipt, field) + 1})
    kept_id = replace(shown(town, signed), signed=replace(signed, receipt=changed))
    assert verdicts(town, kept_id)["hash"] is False
    found = verdicts(town, shown(town, replace(signed, receipt=changed)))
    assert found["signature"] is False
    assert found["hash"] is True
    assert found["batch"] in (False, None)
    assert found["charge"] is (field in {"cumulative", "served_at"})


def test_a_strangers_signature_and_a_malformed_one_are_wrong(town: Town) -> None:
    (signed, *_) = settle(town)
    stranger = Key("stranger").sign(town.market.domain.receipt_digest(signed.receipt))
    for signature in (stranger, "0x" + "00" * 65):
        assert verdicts(town, shown(town, replace(signed, signature=signature)))["signature"] is False


def test_an_operator_that_is_not_indexed_leaves_the_signature_open(town: Town) -> None:
    (signed, *_) = settle(town)
    found = verdicts(town, replace(shown(town, signed), operator=some_account("elsewhere")))
    assert found == {**dict.fromkeys(ALL, True), "signature": None, "batch": None}


def test_other_shares_or_versions_than_were_signed_are_wrong(town: Town) -> None:
    signed = next(s for s in settle(town, 12) if s.slices[0].shares)
    (first, *rest) = signed.slices
    for part in (
        replace(first, shares=(Share(0, 1_000_000),)),
        replace(first, version_id=some_hash("other")),
    ):
        found = verdicts(town, shown(town, replace(signed, slices=(part, *rest))))
        assert found["slices"] is False
        assert found["charge"] in (False, None)


def test_an_operators_second_receipt_for_the_same_money_is_named_an_equivocation(town: Town) -> None:
    (signed, *_) = settle(town)
    other = replace(signed.receipt, request_hash=some_hash("another request"))
    digest = town.market.domain.receipt_digest(other)
    second = replace(signed, receipt=other, signature=town.market.receipt_key.sign(digest))
    found = verdicts(town, shown(town, second))
    assert found == {**dict.fromkeys(ALL, True), "batch": False}


def test_request_and_answer_are_the_receipts_own_or_not(town: Town) -> None:
    body, answer, salt = b'{"model": "x"}', "Hello.", to_bytes(SALT)
    signed = town.serve()
    hashes = {
        "request_hash": salted_hash(salt, body),
        "response_hash": salted_hash(salt, response_bytes([answer])),
    }
    own = shown(town, replace(signed, receipt=replace(signed.receipt, **hashes)))
    assert content_check(own, body, [answer]).is_right is True
    assert content_check(own, body + b" ", [answer]).is_right is False
    assert content_check(own, body, ["Hello"]).is_right is False
    assert content_check(replace(own, salt=None), body, [answer]).is_right is None
