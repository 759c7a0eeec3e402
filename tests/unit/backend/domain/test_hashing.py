"""Hashes compared with the shared vectors and with independent encoders."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from backend.domain import hashing
from backend.domain.hashing import TypedDomain, keccak, to_bytes, to_hash
from backend.domain.ids import Account, ChannelId
from backend.domain.receipt import Charge, Receipt, Share

ROOT = Path(__file__).parents[4]
RECORD = "(address,bytes32,bytes32,bytes32,bytes32,bytes32[],uint64,uint64,uint32,uint32)"
HEADER = (
    "(address,uint64,bytes32,uint32,uint64,uint64,uint64,uint128,uint128,uint128,bytes32,bytes32,uint32,"
    "bytes32,uint32,bytes32,uint32,bytes32)"
)


def cases(subject: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / "tests/vectors" / f"{subject}.json").read_text())


def abi_hash(types: list[str], values: list[Any]) -> str:
    return to_hash(keccak(encode(types, values)))


def typed_digest(declaration: str, case: dict[str, Any]) -> str:
    """Digest by eth-account, from the vector's fields."""
    name, members = declaration.rstrip(")").split("(")
    fields = [dict(zip(("type", "name"), member.split(), strict=True)) for member in members.split(",")]
    domain = {
        "name": "loraledger",
        "version": "1",
        "chainId": int(case["chainId"]),
        "verifyingContract": case["contract"],
    }
    values = {f["name"]: int(case[f["name"]]) if "uint" in f["type"] else case[f["name"]] for f in fields}
    message = encode_typed_data(domain, {name: fields}, values)
    return to_hash(keccak(b"\x19" + message.version + message.header + message.body))


def test_vectors_are_what_the_generator_writes() -> None:
    command = [sys.executable, "-m", "tools.make_vectors", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("subject", "declaration"),
    [
        ("receipts", hashing.RECEIPT_TYPE),
        ("signed_charges", hashing.CHARGE_TYPE),
        ("vouchers", hashing.VOUCHER_TYPE),
        ("grants", hashing.GRANT_TYPE),
        ("revocations", hashing.REVOCATION_TYPE),
        ("moves", hashing.MOVE_TYPE),
        ("contributions", hashing.CONTRIBUTION_TYPE),
        ("payouts", hashing.PAYOUT_TYPE),
        ("receipt_keys", hashing.RECEIPT_KEY_TYPE),
    ],
)
def test_typed_digests_agree_with_eth_account(subject: str, declaration: str) -> None:
    for case in cases(subject):
        assert case["digest"] == typed_digest(declaration, case)


@given(
    uint128s=st.lists(st.integers(0, 2**128 - 1), min_size=2, max_size=2),
    hashes=st.lists(st.binary(min_size=32, max_size=32), min_size=5, max_size=5),
    tokens=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2),
    served_at=st.integers(0, 2**64 - 1),
    chain_id=st.integers(1, 2**53),
    contract=st.binary(min_size=20, max_size=20),
)
def test_any_receipt_is_signed_as_wallets_would_sign_it(
    uint128s: list[int],
    hashes: list[bytes],
    tokens: list[int],
    served_at: int,
    chain_id: int,
    contract: bytes,
) -> None:
    """Compare with eth-account's encoding of the whole typed message."""
    channel, *committed, attribution = map(to_hash, hashes)
    receipt = Receipt(ChannelId(channel), *uint128s, *committed, *tokens, attribution, served_at)
    members = hashing.RECEIPT_TYPE.removeprefix("Receipt(").rstrip(")").split(",")
    names = [member.split()[1] for member in members]
    settlement = Account("0x" + contract.hex())
    case = dict(zip(names, astuple(receipt), strict=True)) | {"chainId": chain_id, "contract": settlement}
    here = TypedDomain(chain_id, settlement).receipt_digest(receipt)
    assert to_hash(here) == typed_digest(hashing.RECEIPT_TYPE, case)


@given(
    charge=st.builds(
        Charge,
        *[st.binary(min_size=32, max_size=32).map(to_hash)],
        *[st.integers(0, 2**128 - 1)] * 2,
        *[st.binary(min_size=32, max_size=32).map(to_hash)] * 3,
        *[st.integers(0, 2**32 - 1)] * 2,
        *[st.integers(0, 2**64 - 1)] * 2,
    )
)
def test_any_charge_is_signed_as_wallets_would_sign_it(charge: Charge) -> None:
    members = hashing.CHARGE_TYPE.removeprefix("Charge(").rstrip(")").split(",")
    names = [member.split()[1] for member in members]
    settlement = Account("0x" + "5e" * 20)
    case = dict(zip(names, astuple(charge), strict=True)) | {"chainId": 1, "contract": settlement}
    here = TypedDomain(1, settlement).charge_digest(charge)
    assert to_hash(here) == typed_digest(hashing.CHARGE_TYPE, case)


def test_the_protocol_page_states_the_types_that_are_signed() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    for declaration in (
        hashing.RECEIPT_TYPE,
        hashing.CHARGE_TYPE,
        hashing.VOUCHER_TYPE,
        hashing.GRANT_TYPE,
        hashing.CONTRIBUTION_TYPE,
        hashing.PAYOUT_TYPE,
    ):
        assert declaration in page


def test_channel_and_snapshot_ids_are_abi_hashes() -> None:
    for case in cases("channels"):
        parties = [case["payer"], case["operator"], case["collector"]]
        assert case["channelId"] == abi_hash(["address"] * 3, parties)
    for case in cases("snapshots"):
        assert case["acceptedHash"] == to_hash(keccak(to_bytes(case["accepted"])))
        values = [int(case["datanetId"]), int(case["count"]), to_bytes(case["acceptedHash"])]
        assert case["snapshotId"] == abi_hash(["uint64", "uint32", "bytes32"], values)


def test_version_ids_are_abi_hashes_of_the_record() -> None:
    for case in cases("versions"):
        hashes = [to_bytes(case[name]) for name in ("name", "adapterDigest", "cidDigest", "baseModel")]
        numbers = [int(case[n]) for n in ("promptPrice", "completionPrice", "operatorPpm", "creatorPpm")]
        record = (case["creator"], *hashes, [to_bytes(s) for s in case["snapshots"]], *numbers)
        assert case["versionId"] == abi_hash([RECORD], [record])


def test_batch_hashes_are_abi_hashes_of_the_header() -> None:
    for case in cases("batches"):
        values = list(case.values())[:18]
        header = tuple(
            int(v) if not v.startswith("0x") else v if len(v) == 42 else to_bytes(v) for v in values
        )
        assert case["batchHash"] == abi_hash([HEADER], [header])
        assert case["spansHash"] == to_hash(keccak(to_bytes(case["spans"])))


def test_accept_bits_are_packed_from_the_least_significant_bit() -> None:
    bits = [True, False, True] + [False] * 253 + [True]
    assert hashing.accepted_words(bits) == hashing.words(5, 1)


def test_lists_are_packed_eight_bytes_an_entry() -> None:
    packed = hashing.pack_list([Share(1 << 24 | 2, 400_000), Share(2 << 24, 600_000)])
    assert packed.hex() == "0100000200061a80" + "02000000000927c0"


def test_a_digest_depends_on_chain_and_contract() -> None:
    (first, second) = cases("receipt_keys")
    here = TypedDomain(int(first["chainId"]), first["contract"])
    assert here.receipt_key_digest(first["operator"]).hex() == first["digest"][2:]
    assert first["digest"] != second["digest"]


def test_names_longer_than_a_word_are_refused() -> None:
    with pytest.raises(ValueError, match="longer than 32"):
        hashing.ascii_word("x" * 33)


def test_a_salt_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        hashing.salted_hash(b"short", b"")


def test_choices_cannot_be_shifted_into_each_other() -> None:
    assert hashing.response_bytes(["ab", "c"]) != hashing.response_bytes(["a", "bc"])
