"""Vouchers and moves, which payers sign (EIP-712, verifying contract `PaymentVault`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.domain.ids import Account, ChannelId


@dataclass(frozen=True, slots=True)
class Voucher:
    """Upper limit of a channel's cumulative, in micro-units. `waived_until` is the message's `from`."""

    channel_id: ChannelId
    waived_until: int
    max_cumulative: int


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    voucher: Voucher
    signature: str


@dataclass(frozen=True, slots=True)
class ClientVoucher:
    """A verified voucher and its signer, the payer or a session key."""

    signed: SignedVoucher
    signer: Account


@dataclass(frozen=True, slots=True)
class ChannelMove:
    """A payer's consent to move at most `max_amount` micro-units from its channel with `operator` to the one
    under `new_collector`, until `deadline` (unix seconds). `key`, `cap` and `expiry` grant a session key
    there; none if the key is zero.
    """

    payer: Account
    operator: Account
    collector: Account
    new_collector: Account
    max_amount: int
    key: Account
    cap: int
    expiry: int
    nonce: int
    deadline: int
