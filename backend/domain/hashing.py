"""Encodings of everything that is hashed or signed. Source: docs/protocol.md. Twin of `contracts/libraries/`.

Ids and hashes are 0x-hex strings; digests to sign are 32 raw bytes.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from sha3 import keccak_256

from backend.domain.ids import (
    Account,
    ChannelId,
    ChargeId,
    DatanetId,
    Hash32,
    ReceiptId,
    SnapshotId,
    VersionId,
)
from backend.domain.receipt import PackedShares

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backend.domain.receipt import Charge, Receipt, Share, Slice, VersionRecord
    from backend.domain.voucher import ChannelMove, Voucher

RECEIPT_TYPE = (
    "Receipt(bytes32 channelId,uint128 cumulative,uint128 charge,bytes32 requestHash,bytes32 responseHash,"
    "bytes32 slicesHash,uint32 promptTokens,uint32 completionTokens,bytes32 attributionHash,uint64 servedAt)"
)
CHARGE_TYPE = (
    "Charge(bytes32 channelId,uint128 cumulative,uint128 charge,bytes32 requestHash,bytes32 responseHash,"
    "bytes32 slicesHash,uint32 promptTokens,uint32 completionTokens,uint64 servedAt,uint64 receiptBy)"
)
VOUCHER_TYPE = "Voucher(bytes32 channelId,uint128 from,uint128 maxCumulative)"
GRANT_TYPE = "SessionGrant(bytes32 channelId,address key,uint128 cap,uint64 expiry,uint256 nonce)"
CONTRIBUTION_TYPE = (
    "Contribution(address account,uint64 datanetId,bytes32 contentHash,bytes32 cidDigest,bytes32 licence,"
    "uint32 rows,uint256 nonce,uint256 deadline)"
)
REVOCATION_TYPE = "SessionRevocation(bytes32 channelId,address key,uint256 nonce)"
MOVE_TYPE = (
    "ChannelMove(address payer,address operator,address collector,address newCollector,uint128 maxAmount,"
    "address key,uint128 cap,uint64 expiry,uint256 nonce,uint256 deadline)"
)
RECEIPT_KEY_TYPE = "ReceiptKey(address operator)"
PAYOUT_TYPE = "PayoutChange(address account,address newWallet,uint256 nonce,uint256 deadline)"
AUTHORIZATION_TYPE = (
    "ReceiveWithAuthorization(address from,address to,uint256 value,"
    "uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
"""EIP-3009; the verifying contract is the payment token."""
DOMAIN_NAME, DOMAIN_VERSION = "loraledger", "1"
DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


def keccak(data: bytes) -> bytes:
    """Keccak-256, 32 bytes."""
    return cast("bytes", keccak_256(data).digest())


def to_hash(raw: bytes) -> Hash32:
    return Hash32("0x" + raw.hex())


def to_bytes(value: str) -> bytes:
    """The bytes of a 0x-hex id or hash."""
    return bytes.fromhex(value[2:])


def word(value: int | str) -> bytes:
    """One ABI word: an integer, or a 0x-hex address or hash, right-aligned."""
    return value.to_bytes(32, "big") if isinstance(value, int) else to_bytes(value).rjust(32, b"\0")


def words(*values: int | str) -> bytes:
    """`abi.encode` of static values."""
    return b"".join(map(word, values))


def ascii_word(text: str) -> bytes:
    """A name as `bytes32`: ASCII, left-aligned, zero-padded. Errors: ValueError above 32 characters."""
    raw = text.encode("ascii")
    if len(raw) > 32:
        raise ValueError(f"{text!r} is longer than 32 characters")
    return raw.ljust(32, b"\0")


def licence_word(expression: str) -> Hash32:
    """An SPDX expression as the `licence` of a contribution: in ASCII, or its Keccak if it is longer."""
    raw = expression.encode("ascii")
    return to_hash(ascii_word(expression) if len(raw) <= 32 else keccak(raw))


def licence_text(word: Hash32) -> str | None:
    """The expression of a `licence_word`; None if the word is a hash."""
    raw = bytes.fromhex(word[2:]).rstrip(b"\0")
    return raw.decode() if raw.isascii() else None


def channel_id(payer: Account, operator: Account, collector: Account) -> ChannelId:
    return ChannelId(to_hash(keccak(words(payer, operator, collector))))


def deposit_nonce(channel: ChannelId, key: Account, cap: int, expiry: int, salt: Hash32) -> Hash32:
    """The EIP-3009 nonce of a relayed deposit. It binds channel and session grant, so that the relayer cannot
    change them.
    """
    return to_hash(keccak(words(channel, key, cap, expiry, salt)))


def version_id(record: VersionRecord) -> VersionId:
    """`keccak(abi.encode(record))`. The struct is dynamic: an offset comes first, `snapshots` last."""
    head = words(0x20, record.creator) + ascii_word(record.name)
    head += words(record.adapter_digest, record.cid_digest, record.base_model, 10 * 32)
    head += words(record.prompt_price, record.completion_price, record.operator_ppm, record.creator_ppm)
    return VersionId(to_hash(keccak(head + words(len(record.snapshots), *record.snapshots))))


def record_argument(record: VersionRecord) -> dict[str, Any]:
    """The record as the contract's struct. Integers are decimal text, as in the transaction queue."""
    return {
        "creator": record.creator,
        "name": to_hash(ascii_word(record.name)),
        "adapterDigest": record.adapter_digest,
        "cidDigest": record.cid_digest,
        "baseModel": record.base_model,
        "snapshots": list(record.snapshots),
        "promptPrice": str(record.prompt_price),
        "completionPrice": str(record.completion_price),
        "operatorPpm": str(record.operator_ppm),
        "creatorPpm": str(record.creator_ppm),
    }


def accepted_words(bits: Sequence[bool]) -> bytes:
    """Accept bits of a snapshot's contributions by index, packed 256 per word."""
    packed = bytearray()
    for start in range(0, len(bits), 256):
        packed += word(sum(1 << i for i, bit in enumerate(bits[start : start + 256]) if bit))
    return bytes(packed)


def accepted_hash(bits: Sequence[bool]) -> Hash32:
    return to_hash(keccak(accepted_words(bits)))


def snapshot_id(datanet: DatanetId, count: int, accepted: Hash32) -> SnapshotId:
    return SnapshotId(to_hash(keccak(words(datanet, count, accepted))))


def salted_hash(salt: bytes, data: bytes) -> Hash32:
    """Request or response hash. Only the consumer gets the salt (32 bytes)."""
    if len(salt) != 32:
        raise ValueError("the salt must have 32 bytes")
    return to_hash(keccak(salt + data))


def response_bytes(choices: Iterable[str]) -> bytes:
    """Concatenate the texts of an answer's choices, each after its length (8 bytes)."""
    encoded = (choice.encode() for choice in choices)
    return b"".join(len(raw).to_bytes(8, "big") + raw for raw in encoded)


def pack_list(shares: Iterable[Share]) -> bytes:
    """Concatenate `position 4 ‖ ppm 4` of a slice's shares."""
    if isinstance(shares, PackedShares):
        return shares.packed
    numbers = [number for share in shares for number in (share.position, share.ppm)]
    return struct.pack(f">{len(numbers)}I", *numbers)


def list_hash(shares: Iterable[Share]) -> Hash32:
    return to_hash(keccak(pack_list(shares)))


def pack_slices(slices: Iterable[Slice]) -> bytes:
    """Concatenate `versionId 32 ‖ weightPpm 4` of all slices."""
    return b"".join(to_bytes(s.version_id) + s.weight_ppm.to_bytes(4, "big") for s in slices)


def slices_hash(slices: Iterable[Slice]) -> Hash32:
    """Hash of the answering versions and their weights."""
    return to_hash(keccak(pack_slices(slices)))


def method_word(method: str) -> bytes:
    """A method's name as `bytes32`, of any bytes. Errors: ValueError above 32."""
    raw = method.encode("latin-1")
    if len(raw) > 32:
        raise ValueError(f"{method!r} is longer than 32 characters")
    return raw.ljust(32, b"\0")


def method_name(raw: bytes) -> str:
    """The inverse of `method_word`."""
    return raw.rstrip(b"\0").decode("latin-1")


def attribution_words(method: str, slices: Iterable[Slice]) -> bytes:
    """`method 32`, followed by the 32-byte list hash of each slice."""
    return method_word(method) + b"".join(to_bytes(list_hash(s.shares)) for s in slices)


def attribution_hash(method: str, slices: Iterable[Slice]) -> Hash32:
    return to_hash(keccak(attribution_words(method, slices)))


@cache
def _type_hash(declaration: str) -> bytes:
    return keccak(declaration.encode())


def receipt_id(receipt: Receipt) -> ReceiptId:
    """The EIP-712 struct hash, which is the receipt's key in the receipts tree."""
    r = receipt
    data = words(r.channel_id, r.cumulative, r.charge, r.request_hash, r.response_hash, r.slices_hash)
    data += words(r.prompt_tokens, r.completion_tokens, r.attribution_hash, r.served_at)
    return ReceiptId(to_hash(keccak(_type_hash(RECEIPT_TYPE) + data)))


def charge_id(charge: Charge) -> ChargeId:
    """The EIP-712 struct hash."""
    return ChargeId(to_hash(keccak(_type_hash(CHARGE_TYPE) + words(*astuple(charge)))))


@dataclass(frozen=True, slots=True)
class TypedDomain:
    """The EIP-712 domain of one contract. Its methods return the 32 bytes to sign."""

    chain_id: int
    contract: Account

    @property
    def fields(self) -> dict[str, Any]:
        """Domain fields for a wallet."""
        return {
            "name": DOMAIN_NAME,
            "version": DOMAIN_VERSION,
            "chainId": self.chain_id,
            "verifyingContract": self.contract,
        }

    @property
    def separator(self) -> bytes:
        return _separator(self.chain_id, self.contract)

    def digest(self, struct_hash: bytes) -> bytes:
        return keccak(b"\x19\x01" + self.separator + struct_hash)

    def receipt_digest(self, receipt: Receipt) -> bytes:
        """Verifying contract: `Settlement`."""
        return self.digest(to_bytes(receipt_id(receipt)))

    def charge_digest(self, charge: Charge) -> bytes:
        """Verifying contract: `Settlement`, as for the receipt that follows."""
        return self.digest(to_bytes(charge_id(charge)))

    def voucher_digest(self, voucher: Voucher) -> bytes:
        """Verifying contract: `PaymentVault`."""
        return self.typed_digest(
            VOUCHER_TYPE, voucher.channel_id, voucher.waived_until, voucher.max_cumulative
        )

    def move_digest(self, move: ChannelMove) -> bytes:
        """Verifying contract: `PaymentVault`."""
        return self.typed_digest(MOVE_TYPE, *astuple(move))

    def receipt_key_digest(self, operator: Account) -> bytes:
        """A receipt key's consent to sign for this operator. Verifying contract: `OperatorRegistry`."""
        return self.typed_digest(RECEIPT_KEY_TYPE, operator)

    def contribution_digest(
        self,
        account: Account,
        datanet: DatanetId,
        content_hash: Hash32,
        cid_digest: Hash32,
        licence: Hash32,
        rows: int,
        nonce: int,
        deadline: int,
    ) -> bytes:
        """`account` is the contributor, `licence` a `licence_word`, `deadline` unix seconds.

        Verifying contract: `DatasetRegistry`.
        """
        return self.typed_digest(
            CONTRIBUTION_TYPE, account, datanet, content_hash, cid_digest, licence, rows, nonce, deadline
        )

    def typed_digest(self, declaration: str, *values: int | str) -> bytes:
        """The digest of a message of the declared type, whose fields are one word each."""
        return self.digest(keccak(_type_hash(declaration) + words(*values)))


@cache
def _separator(chain_id: int, contract: Account) -> bytes:
    encoded = _type_hash(DOMAIN_TYPE) + keccak(DOMAIN_NAME.encode()) + keccak(DOMAIN_VERSION.encode())
    return keccak(encoded + words(chain_id, contract))
