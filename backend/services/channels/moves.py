"""Moves balance to the payer's channel under another collector, by the payer's signature and without a thaw.

A thaw protects only the operator, which here chooses the amount: what the channel neither owes nor may come
to owe. From the commit that queues the transaction on, that amount cannot be spent; `pending_moves` says
until when.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backend.domain.batch import camel_case
from backend.domain.channels import Move
from backend.domain.eip712 import build_typed_data
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.hashing import MOVE_TYPE, TypedDomain, to_hash
from backend.domain.ids import ZERO_ACCOUNT
from backend.domain.money import AMOUNT, UNIT, in_dollars
from backend.domain.signatures import signature_hex
from backend.domain.voucher import ChannelMove
from backend.services.channels.balance import channel_balance, check_fresh, pending_moves
from backend.services.channels.deposits import (
    MAX_UINT128,
    MIN_RELAYED_UNITS,
    NO_GRANT,
    VAULT,
    SessionGrant,
)
from backend.services.transactions.retry import newest_attempt

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account, ChannelId
    from backend.ports.chain import Chain
    from backend.services.channels.admission import Counterparty
    from backend.services.channels.balance import ChannelBalance
    from backend.services.transactions.relays import Relays

MOVE = (VAULT, "moveBalance")
MOVE_SECONDS = 3600
"""From the preparation of a move to its deadline."""
LONGEST_MOVE_SECONDS = 24 * 3600
"""To the latest deadline that is accepted: until then, a move whose fate is unknown holds its amount."""
LEAST_MOVE = MIN_RELAYED_UNITS * UNIT
"""Micro-units. As for a relayed deposit, the operator pays the gas."""


class NothingToMove(Conflict):
    """The channel can spare too little: its balance is charged, reserved, thawing or moving."""


class MovePending(Conflict):
    """Another move with the same nonce is pending, and at most one of the two can take place."""


@dataclass(frozen=True, slots=True)
class MoveTerms:
    """What a payer chooses of a `ChannelMove`. `max_amount` in micro-units, `deadline` in unix seconds;
    `grant` is for the receiving channel.
    """

    new_collector: Account
    max_amount: int
    grant: SessionGrant
    nonce: int
    deadline: int


class Moves:
    """`max_lag_seconds`: maximum age of the last indexed block."""

    def __init__(
        self,
        db: Database,
        chain: Chain,
        counterparty: Counterparty,
        relays: Relays,
        clock: Callable[[], datetime],
        max_lag_seconds: int,
    ) -> None:
        self._db = db
        self._chain = chain
        self._counterparty = counterparty
        self._relays = relays
        self._clock = clock
        self._max_lag_seconds = max_lag_seconds

    def prepare(
        self,
        payer: Account,
        new_collector: Account,
        max_amount: int | None = None,
        grant: SessionGrant = NO_GRANT,
    ) -> tuple[MoveTerms, dict[str, Any]]:
        """The terms of a move, and the `ChannelMove` to sign. `max_amount` defaults to the whole balance.

        Errors: as of `relay`, except `Reverted`.
        """
        channel = self._counterparty.channel(payer)
        nonce = int(self._chain.call(VAULT, "nonces", payer))
        deadline = int((self._clock() + timedelta(seconds=MOVE_SECONDS)).timestamp())
        with self._db.read() as tx:
            balance = self._balance(tx, channel, nonce)
        limit = balance.balance if max_amount is None else max_amount
        terms = MoveTerms(new_collector, limit, grant, nonce, deadline)
        _spare(balance, terms)
        self._check(terms)
        message = {
            camel_case(name): str(value) for name, value in asdict(self._consent(payer, terms)).items()
        }
        return terms, build_typed_data(self._domain.fields, MOVE_TYPE, message)

    def relay(self, payer: Account, terms: MoveTerms, signature: str) -> Move:
        """Queue the transaction that moves what the channel can spare, up to the payer's maximum. The same
        request again returns the same move, or another attempt once its transaction has failed.

        Errors, after which nothing is queued: `InvalidInput`, `ViewStale`, `MovePending`, `NothingToMove`;
        those of `Relays.relay`.
        """
        self._check(terms)
        channel = self._counterparty.channel(payer)
        consent, signature = self._consent(payer, terms), signature_hex(signature)
        key = f"move:{to_hash(self._domain.move_digest(consent))}"
        with self._db.read() as tx:
            if known := _known(tx, channel, key):
                return known
            amount = _spare(self._balance(tx, channel, terms.nonce), terms)
        relay = self._relays.prepare(payer, MOVE, _arguments(consent, amount, signature), key)
        with self._db.begin() as tx:
            self._relays.lock(tx)
            tx.channels.lock(channel)
            if known := _known(tx, channel, key):
                return known
            amount = _spare(self._balance(tx, channel, terms.nonce), terms)
            relay = replace(relay, args=_arguments(consent, amount, signature))
            move = Move(channel, terms.nonce, amount, terms.deadline, self._relays.queue(tx, relay))
            tx.channels.add_move(move)
        return move

    @property
    def _domain(self) -> TypedDomain:
        return TypedDomain(self._chain.chain_id, self._chain.address(VAULT))

    def _check(self, terms: MoveTerms) -> None:
        if terms.new_collector in (ZERO_ACCOUNT, self._counterparty.collector):
            raise InvalidInput(
                f"The new collector must be another than this operator's, {self._counterparty.collector}: "
                "name the settlement contract to which the operator has moved.",
                param="new_collector",
            )
        if not LEAST_MOVE <= terms.max_amount <= MAX_UINT128:
            raise InvalidInput(
                f"A move has at least {in_dollars(LEAST_MOVE)}, and its maximum fits uint128 micro-units.",
                param="max_amount",
            )
        if terms.deadline > self._clock().timestamp() + LONGEST_MOVE_SECONDS:
            raise InvalidInput(
                f"The deadline must be at most {LONGEST_MOVE_SECONDS} seconds from now.", param="deadline"
            )

    def _balance(self, tx: UnitOfWork, channel: ChannelId, nonce: int) -> ChannelBalance:
        """The channel's balance, if a move with this nonce may be queued. Errors: ViewStale, MovePending."""
        now, cursor = self._clock(), tx.chain.cursor()
        check_fresh(cursor, now, self._max_lag_seconds)
        for pending in pending_moves(tx, tx.chain.known_channels([channel]), cursor):
            if pending.nonce == nonce:
                raise MovePending(
                    f"A move with nonce {nonce} is pending in transaction {pending.transaction_id}: prepare "
                    "another one once it is indexed or has failed.",
                    details={"transaction_id": pending.transaction_id},
                )
        return channel_balance(tx, channel, now)

    def _consent(self, payer: Account, terms: MoveTerms) -> ChannelMove:
        grant = terms.grant
        return ChannelMove(
            payer=payer,
            operator=self._counterparty.operator,
            collector=self._counterparty.collector,
            new_collector=terms.new_collector,
            max_amount=terms.max_amount,
            key=grant.key,
            cap=grant.cap,
            expiry=grant.expiry,
            nonce=terms.nonce,
            deadline=terms.deadline,
        )


def _known(tx: UnitOfWork, channel: ChannelId, key: str) -> Move | None:
    """The move that the newest attempt makes or made; None if there is none or it has failed."""
    _, attempt = newest_attempt(tx, key, seen=None)
    if attempt is None:
        return None
    return next(move for move in tx.channels.moves([channel]) if move.transaction_id == attempt.id)


def _spare(balance: ChannelBalance, terms: MoveTerms) -> int:
    """Micro-units that may leave the channel. Errors: NothingToMove."""
    if balance.unspent < LEAST_MOVE:
        raise NothingToMove(
            f"The channel can spare {in_dollars(balance.unspent)}, and a move has at least "
            f"{in_dollars(LEAST_MOVE)}: the rest of its balance is charged, reserved, thawing or moving.",
            details={
                "balance": AMOUNT.render(balance.balance),
                "uncollected": AMOUNT.render(balance.charged - balance.collected),
                "reserved": AMOUNT.render(balance.reserved),
                "thawing": AMOUNT.render(balance.thawing),
                "moving": AMOUNT.render(balance.moving),
            },
        )
    return min(balance.unspent, terms.max_amount)


def _arguments(consent: ChannelMove, amount: int, signature: str) -> list[Any]:
    move = {
        "collector": consent.collector,
        "newCollector": consent.new_collector,
        "maxAmount": str(consent.max_amount),
        "grant": SessionGrant(consent.key, consent.cap, consent.expiry).as_argument(),
        "nonce": str(consent.nonce),
        "deadline": str(consent.deadline),
    }
    return [consent.payer, move, str(amount), signature]
