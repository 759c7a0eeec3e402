"""Deposits, session grants and withdrawals: prepared for the payer's wallet, or relayed by the operator."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.eip712 import build_typed_data
from backend.domain.errors import Conflict, InvalidInput, PaymentRequired, Unavailable
from backend.domain.hashing import (
    AUTHORIZATION_TYPE,
    GRANT_TYPE,
    REVOCATION_TYPE,
    TypedDomain,
    deposit_nonce,
    to_hash,
)
from backend.domain.ids import ZERO_ACCOUNT, Account, ChannelId, Hash32
from backend.domain.money import AMOUNT, UNIT, in_dollars
from backend.domain.signatures import signature_hex
from backend.services.channels.balance import channel_balance, latest_time, usable_grants
from backend.services.transactions.payment_token import PaymentToken

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from backend.db.unit_of_work import Database
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.chain import Chain
    from backend.ports.keys import SessionKeys
    from backend.services.channels.admission import Counterparty
    from backend.services.transactions.relays import Relays

AUTHORIZATION_SECONDS = 3600
MIN_RELAYED_UNITS = 1_000
"""The operator pays the gas of a relayed deposit: the payer's wallet sends smaller ones itself."""
KEY_WAIT_SECONDS = 10
VAULT = "PaymentVault"
MAX_UINT128 = (1 << 128) - 1


class ChannelEmpty(Conflict):
    """The channel has no confirmed deposit, so that there is nothing to grant."""


class InsufficientTokens(PaymentRequired):
    """The payer's wallet holds less than the deposit."""


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """Terms under which a session key may sign. `cap`, in micro-units, limits the channel's cumulative (None:
    all that the deposit makes available). `expiry` in unix seconds; an existing grant of the key is never
    shortened. Without a `key` the gateway uses one that it holds.
    """

    expiry: int
    cap: int | None = None
    key: Account | None = None


@dataclass(frozen=True, slots=True)
class SessionGrant:
    """As in the contract. A grant to the zero key grants nothing."""

    key: Account
    cap: int
    expiry: int

    def as_argument(self) -> dict[str, Any]:
        """As an argument of a queued transaction: integers as decimal strings."""
        return {"key": self.key, "cap": str(self.cap), "expiry": str(self.expiry)}


NO_GRANT = SessionGrant(ZERO_ACCOUNT, 0, 0)


@dataclass(frozen=True, slots=True)
class RelayedDeposit:
    """A relayed deposit without the payer's signature. `salt` makes its EIP-3009 nonce unique."""

    units: int
    grant: SessionGrant
    salt: Hash32
    valid_before: int


@dataclass(frozen=True, slots=True)
class PreparedDeposit:
    """Either the payer sends `transactions` in order, or signs `typed_data` and has the deposit relayed.

    `relay` and `typed_data` are None for a payment token without EIP-3009 authorisations.
    """

    channel_id: ChannelId
    transactions: tuple[PreparedTransaction, ...]
    relay: RelayedDeposit | None
    typed_data: dict[str, Any] | None


class Deposits:
    """Uses the ERC-20 that the deployment names as payment token."""

    def __init__(
        self,
        db: Database,
        chain: Chain,
        counterparty: Counterparty,
        relays: Relays,
        held_keys: SessionKeys,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._chain = chain
        self._counterparty = counterparty
        self._relays = relays
        self._held_keys = held_keys
        self._clock = clock
        self._token = PaymentToken(chain)
        self._creating = threading.Lock()

    def prepare(self, payer: Account, units: int, session: SessionTerms | None) -> PreparedDeposit:
        """Prepare a deposit of `units` token units into the payer's channel; with a session grant, given
        terms.
        """
        if not 0 < units <= MAX_UINT128 // UNIT:
            raise InvalidInput("The deposit must be above 0 dollars, and fit uint128.", param="amount")
        channel = self._counterparty.channel(payer)
        if session is not None and session.key is None:
            self._check_holds(payer, units)
        grant = NO_GRANT if session is None else self._grant(channel, session, units)
        expires = self._clock() + timedelta(seconds=AUTHORIZATION_SECONDS)
        salt = to_hash(secrets.token_bytes(32))
        relay = RelayedDeposit(units, grant, salt, int(expires.timestamp()))
        typed_data = self._authorization(payer, channel, relay)
        relayed = None if typed_data is None else relay
        return PreparedDeposit(channel, self._transactions(payer, units, grant), relayed, typed_data)

    def relay(self, payer: Account, deposit: RelayedDeposit, signature: str) -> int:
        """Queue the deposit; returns the transaction's id. `signature` is the payer's, or one that its
        contract wallet accepts (EIP-1271), if the token asks such wallets as USDC does.

        Errors, after which nothing is queued: `InvalidInput` below the minimum; those of `Relays.relay`.
        """
        if deposit.units < MIN_RELAYED_UNITS:
            raise InvalidInput(
                f"A relayed deposit has at least {in_dollars(MIN_RELAYED_UNITS * UNIT)}; send smaller ones "
                "yourself.",
                param="relay.units",
            )
        channel = self._counterparty.channel(payer)
        nonce = _nonce(channel, deposit)
        authorization = {
            "validAfter": "0",
            "validBefore": str(deposit.valid_before),
            "salt": deposit.salt,
            "signature": signature_hex(signature),
        }
        channel_key = (payer, *self._counterparty.pair)
        args = [*channel_key, str(deposit.units), deposit.grant.as_argument(), authorization]
        return self._relay(payer, "depositWithAuthorization", args, f"deposit:{nonce}")

    def prepare_grant(
        self, payer: Account, session: SessionTerms
    ) -> tuple[SessionGrant, int, dict[str, Any]]:
        """Prepare a grant without a deposit: the grant, its nonce and the `SessionGrant` to sign.

        Raises ChannelEmpty before a first deposit.
        """
        channel = self._funded_channel(payer)
        grant = self._grant(channel, session, units=0)
        nonce = int(self._chain.call(VAULT, "nonces", payer))
        message = {"channelId": channel, **grant.as_argument(), "nonce": str(nonce)}
        return grant, nonce, self._message(GRANT_TYPE, message)

    def relay_grant(self, payer: Account, grant: SessionGrant, nonce: int, signature: str) -> int:
        self._funded_channel(payer)
        channel_key = (payer, *self._counterparty.pair)
        args = [*channel_key, grant.as_argument(), str(nonce), signature_hex(signature)]
        return self._relay(payer, "grantSessionWithSig", args, f"grant:{payer}:{nonce}:{grant.key}")

    def prepare_revocation(
        self, payer: Account, key: Account
    ) -> tuple[PreparedTransaction, int, dict[str, Any]]:
        """A transaction for the payer to send; and the nonce and `SessionRevocation` to sign instead."""
        nonce = int(self._chain.call(VAULT, "nonces", payer))
        message = {"channelId": self._counterparty.channel(payer), "key": key, "nonce": str(nonce)}
        return self._prepare(payer, "revokeSession", key), nonce, self._message(REVOCATION_TYPE, message)

    def relay_revocation(self, payer: Account, key: Account, nonce: int, signature: str) -> int:
        self._funded_channel(payer)
        channel_key = (payer, *self._counterparty.pair)
        args = [*channel_key, key, str(nonce), signature_hex(signature)]
        return self._relay(payer, "revokeSessionWithSig", args, f"revoke:{payer}:{nonce}:{key}")

    def prepare_thaw(self, payer: Account, amount: int) -> PreparedTransaction:
        """`amount` in micro-units; 0 cancels the thaw."""
        if not 0 <= amount <= MAX_UINT128:
            raise InvalidInput("The amount does not fit uint128.", param="amount")
        return self._prepare(payer, "thaw", amount)

    def prepare_withdrawal(self, payer: Account) -> PreparedTransaction:
        return self._prepare(payer, "withdraw")

    def _prepare(self, payer: Account, function: str, *args: object) -> PreparedTransaction:
        return self._chain.prepare(VAULT, function, *self._counterparty.pair, *args, sender=payer)

    def _relay(self, payer: Account, function: str, args: list[Any], key: str) -> int:
        return self._relays.relay(payer, (VAULT, function), args, key)

    def _transactions(
        self, payer: Account, units: int, grant: SessionGrant
    ) -> tuple[PreparedTransaction, ...]:
        vault = self._chain.address(VAULT)
        deposit = (VAULT, "deposit", *self._counterparty.pair, units, grant.as_argument())
        if self._token.allows(payer, vault, units):
            return (self._chain.prepare(*deposit, sender=payer),)
        approve = self._token.approval(payer, vault, units)
        return (approve, self._chain.prepare(*deposit))  # cannot be simulated before the approval is mined

    def _check_holds(self, payer: Account, units: int) -> None:
        """Checked first, so that no key is created for a deposit that would fail."""
        held, token = self._token.balance(payer), self._chain.address(PAYMENT_TOKEN)
        if held < units:
            raise InsufficientTokens(
                f"{payer} holds {in_dollars(held * UNIT)} of the payment token {token}, less than the "
                f"deposit of {in_dollars(units * UNIT)}: send it the token first.",
                param="amount",
                details={"held": AMOUNT.render(held * UNIT), "required": AMOUNT.render(units * UNIT)},
            )

    def _funded_channel(self, payer: Account) -> ChannelId:
        channel = self._counterparty.channel(payer)
        with self._db.read() as tx:
            known = tx.chain.channel(channel)
        if known is None or not known.balance:
            raise ChannelEmpty(
                "The channel has no balance yet: grant the session key with a deposit.",
                details={"channel_id": channel},
            )
        return channel

    def _grant(self, channel: ChannelId, terms: SessionTerms, units: int) -> SessionGrant:
        with self._db.read() as tx:
            now = latest_time(tx.chain.cursor(), self._clock())
            balance = channel_balance(tx, channel, now)
            grants = {grant.key: grant for grant in tx.chain.grants(channel)}
        if terms.cap == 0:
            raise InvalidInput("The session's cap must be positive.", param="session.cap")
        if terms.expiry <= now.timestamp():
            raise InvalidInput("The session's expiry has passed.", param="session.expiry")
        key = terms.key or self._held_key(channel, now)
        present = grants.get(key)
        floor = present.cap if present else 0  # the vault lowers neither cap nor expiry of a key
        cap = max(balance.funded + units * UNIT, floor) if terms.cap is None else terms.cap
        if not floor <= cap <= MAX_UINT128:
            raise InvalidInput(
                f"The session's cap must be at least {in_dollars(floor)}, the key's present cap, and fit "
                "uint128 micro-units.",
                param="session.cap",
            )
        return SessionGrant(key, cap, max(terms.expiry, present.expiry if present else 0))

    def _held_key(self, channel: ChannelId, now: datetime) -> Account:
        """The newest held key that is granted or was never granted; a new key if there is none."""
        held = self._free_key(channel, now)
        if held is not None:
            return held
        # One at a time: encrypting a key takes a second and 256 MiB by design (scrypt).
        if not self._creating.acquire(timeout=KEY_WAIT_SECONDS):
            raise Unavailable("Too many session keys are being created now; try again.")
        try:
            return self._free_key(channel, now) or self._new_key(channel)
        finally:
            self._creating.release()

    def _free_key(self, channel: ChannelId, now: datetime) -> Account | None:
        with self._db.read() as tx:
            grants = tx.chain.grants(channel)
            spent = {grant.key for grant in grants} - usable_grants(grants, now).keys()
            return next((key for key in tx.channels.held_keys(channel) if key not in spent), None)

    def _new_key(self, channel: ChannelId) -> Account:
        key = self._held_keys.create()
        with self._db.begin() as tx:
            tx.channels.add_held_key(channel, key)
        return key

    def _authorization(
        self, payer: Account, channel: ChannelId, relay: RelayedDeposit
    ) -> dict[str, Any] | None:
        """EIP-3009 typed data; None if the token does not support it."""
        domain = self._token.signing_domain(payer)
        if domain is None:
            return None
        message = {
            "from": payer,
            "to": self._chain.address(VAULT),
            "value": str(relay.units),
            "validAfter": "0",
            "validBefore": str(relay.valid_before),
            "nonce": _nonce(channel, relay),
        }
        return build_typed_data(domain, AUTHORIZATION_TYPE, message)

    def _message(self, declaration: str, message: dict[str, Any]) -> dict[str, Any]:
        domain = TypedDomain(self._chain.chain_id, self._chain.address(VAULT))
        return build_typed_data(domain.fields, declaration, message)


def _nonce(channel: ChannelId, deposit: RelayedDeposit) -> Hash32:
    grant = deposit.grant
    return deposit_nonce(channel, grant.key, grant.cap, grant.expiry, deposit.salt)
