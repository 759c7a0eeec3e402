"""Receipts and version records. Field order and encodings: docs/protocol.md."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from backend.domain.errors import InvalidInput
from backend.domain.ids import ZERO_HASH
from backend.domain.money import PPM, mul_ppm_down

if TYPE_CHECKING:
    from typing import Self

    from backend.domain.ids import Account, ChannelId, Hash32, SnapshotId, VersionId


NAME_PATTERN = "[a-z0-9-]{1,32}"
"""Names of datanets and adapter versions."""
TRAINING_NAME = "training"
"""Name of the record that prices training."""


def check_name(name: str) -> None:
    """Errors: `InvalidInput`."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidInput("A name has 1 to 32 characters out of a-z, 0-9 and '-'.", param="name")


MAX_SNAPSHOTS = 4
"""Snapshots that a version record can name."""


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One adapter version in `AdapterRegistry`. Its id is the record's hash."""

    creator: Account
    name: str
    adapter_digest: Hash32
    cid_digest: Hash32
    base_model: Hash32
    snapshots: tuple[SnapshotId, ...]
    prompt_price: int  # token units per million tokens
    completion_price: int  # token units per million tokens
    operator_ppm: int
    creator_ppm: int

    def full_name(self, version: VersionId) -> str:
        """`owner/name@version`, which the catalogue resolves; `version` is the record's id."""
        return f"{self.creator}/{self.name}@{version[2:14]}"

    def operator_prices(self, operator: Account) -> tuple[int, int]:
        """What this operator earns for a million prompt tokens, and completion tokens, before the protocol's
        fee and rounded down to token units: its share of the prices, and the creator's if it is the creator.
        """
        ppm = self.operator_ppm + (self.creator_ppm if self.creator == operator else 0)
        return mul_ppm_down(self.prompt_price, ppm), mul_ppm_down(self.completion_price, ppm)

    @property
    def is_training(self) -> bool:
        """Whether the record prices training. Such a record cannot serve answers."""
        return self.adapter_digest == ZERO_HASH and self.name == TRAINING_NAME


def own_record(
    operator: Account, base_model: Hash32, name: str, prompt_price: int, completion_price: int
) -> VersionRecord:
    """The record of an offer without adapter: the base model, or training.

    It has no contributors; the operator is also the creator and earns all but the fee. Prices are in token
    units per million tokens.
    """
    return VersionRecord(
        creator=operator,
        name=name,
        adapter_digest=ZERO_HASH,
        cid_digest=ZERO_HASH,
        base_model=base_model,
        snapshots=(),
        prompt_price=prompt_price,
        completion_price=completion_price,
        operator_ppm=PPM // 2,
        creator_ppm=PPM // 2,
    )


@dataclass(frozen=True, slots=True)
class Share:
    """One item of an attribution list: `position` = snapshot index << 24 | contribution index."""

    position: int
    ppm: int


SHARE_BYTES = 8


class PackedShares(Sequence[Share]):
    """Shares in the form of `hashing.pack_list`, in a tenth of the memory. Equals any sequence of the same
    shares.
    """

    __slots__ = ("packed",)

    def __init__(self, packed: bytes) -> None:
        """Errors: ValueError unless these are whole items."""
        if len(packed) % SHARE_BYTES:
            raise ValueError(f"an attribution list has items of {SHARE_BYTES} bytes")
        self.packed = packed

    @classmethod
    def of(cls, positions: Sequence[int], ppms: Sequence[int]) -> Self:
        """Pack columns of the same length."""
        numbers = [0] * (2 * len(positions))
        numbers[::2], numbers[1::2] = positions, ppms
        return cls(struct.pack(f">{len(numbers)}I", *numbers))

    def __len__(self) -> int:
        return len(self.packed) // SHARE_BYTES

    @overload
    def __getitem__(self, index: int) -> Share: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Share, ...]: ...
    def __getitem__(self, index: int | slice) -> Share | tuple[Share, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        return Share(*struct.unpack_from(">II", self.packed, range(len(self))[index] * SHARE_BYTES))

    def __iter__(self) -> Iterator[Share]:
        return map(Share, *columns(self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedShares):
            return self.packed == other.packed
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


def columns(shares: Sequence[Share]) -> tuple[Sequence[int], Sequence[int]]:
    """Positions and parts of shares; of packed ones without an object for each."""
    if not isinstance(shares, PackedShares):
        return [share.position for share in shares], [share.ppm for share in shares]
    numbers = struct.unpack(f">{len(shares.packed) // 4}I", shares.packed)
    return numbers[::2], numbers[1::2]


@dataclass(frozen=True, slots=True)
class Slice:
    """One adapter version's part of an answer, with its attribution by strictly rising position."""

    version_id: VersionId
    weight_ppm: int
    shares: Sequence[Share]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The EIP-712 `Receipt`, in its field order. Amounts in micro-units."""

    channel_id: ChannelId
    cumulative: int
    charge: int
    request_hash: Hash32
    response_hash: Hash32
    slices_hash: Hash32
    prompt_tokens: int
    completion_tokens: int
    attribution_hash: Hash32
    served_at: int  # unix seconds


@dataclass(frozen=True, slots=True)
class Charge:
    """The EIP-712 `Charge`, in its field order: a receipt whose attribution follows. Amounts as there."""

    channel_id: ChannelId
    cumulative: int
    charge: int
    request_hash: Hash32
    response_hash: Hash32
    slices_hash: Hash32
    prompt_tokens: int
    completion_tokens: int
    served_at: int  # unix seconds
    receipt_by: int  # unix seconds

    def receipt(self, attribution_hash: Hash32) -> Receipt:
        """The receipt of the same answer with this attribution."""
        return Receipt(
            channel_id=self.channel_id,
            cumulative=self.cumulative,
            charge=self.charge,
            request_hash=self.request_hash,
            response_hash=self.response_hash,
            slices_hash=self.slices_hash,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            attribution_hash=attribution_hash,
            served_at=self.served_at,
        )


@dataclass(frozen=True, slots=True)
class SignedCharge:
    """A charge with the signature of a receipt key (65 bytes, 0x-hex)."""

    charge: Charge
    signature: str


@dataclass(frozen=True, slots=True)
class Attributed:
    """An answer's slices with their shares, and the method that computed them."""

    method: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt with preimages of its hashes and the signature of a receipt key (65 bytes, 0x-hex)."""

    receipt: Receipt
    method: str
    slices: tuple[Slice, ...]
    signature: str
