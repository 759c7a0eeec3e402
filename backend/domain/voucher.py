"""What a payer signs: vouchers and session grants (EIP-712, verifying contract `PaymentVault`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.domain.ids import Account, ChannelId


@dataclass(frozen=True, slots=True)
class Voucher:
    """Signed cumulative ceiling of a channel, micro-units. `waived_until` is the message's `from`."""

    channel_id: ChannelId
    waived_until: int
    max_cumulative: int


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    voucher: Voucher
    signature: str


@dataclass(frozen=True, slots=True)
class ClientVoucher:
    """A verified voucher and who signed it: the payer or a session key."""

    signed: SignedVoucher
    signer: Account


@dataclass(frozen=True, slots=True)
class SessionGrant:
    """Lets `key` sign vouchers up to `cap` (a ceiling on the channel's cumulative) until `expiry`."""

    channel_id: ChannelId
    key: Account
    cap: int
    expiry: int
    nonce: int
