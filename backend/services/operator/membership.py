"""Our own operator at the `OperatorRegistry`: its stake, its receipt key, its endpoint.

What can be asked of the contracts is asked of them, at the newest block; endpoint and list of keys are in
events alone, so they come from the index. What would fail is refused before it is queued.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.ids import ZERO_ACCOUNT, Account
from backend.domain.money import UNIT, in_dollars, mul_ppm_down
from backend.services.transactions.operator_transactions import Call, OperatorTransactions
from backend.services.transactions.payment_token import PaymentToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.unit_of_work import Database
    from backend.domain.hashing import TypedDomain
    from backend.domain.transactions import ChainTransaction
    from backend.ports.chain import Chain, Signer

REGISTRY, SETTLEMENT, VAULT, PARAMETERS = "OperatorRegistry", "Settlement", "PaymentVault", "Parameters"
MAX_ENDPOINT = 256

JOIN = "`loraledger operator join --stake DOLLARS`"
_ANOTHER_KEY = "Make another (`loraledger market key`) and name it in LORALEDGER_RECEIPT_KEY."


class StillLocked(Conflict):
    """The part of the stake that leaves cannot leave yet."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """The part of a stake that was asked back. It covers no new batch."""

    amount: int
    """Micro-units: less than was asked, where a slash left less."""
    free_at: int
    """Unix seconds, by the chain's clock."""
    locked_by: int | None
    """Batch that must be final besides; None if none has to any more."""


@dataclass(frozen=True, slots=True)
class Place:
    """What the market has of this operator. Amounts in micro-units."""

    account: Account
    endpoint: str
    """By the index; empty while it does not serve."""
    keys: tuple[Account, ...]
    """Receipt keys, by the index."""
    receipt_key: Account
    """With which this installation signs."""
    key_owner: Account
    """To whom that key is bound; the zero account while it is to nobody."""
    stake: int
    """All that can be slashed, what leaves included."""
    leaving: Leaving | None
    owed: int
    """What slashes owe this account, whose transfer failed."""
    cover_needed: int
    """For a batch of all that waits to be settled, on top of what is in the pot."""
    wei: int
    """What the account has for gas."""

    @property
    def cover(self) -> int:
        """The part of the stake that covers new batches."""
        return self.stake - (self.leaving.amount if self.leaving else 0)

    @property
    def has_key(self) -> bool:
        return self.key_owner == self.account

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why this installation could not settle, each with what to do; empty if it could."""
        found = (self._of_key(), self._of_stake(), self._of_gas())
        return tuple(text for text in found if text is not None)

    def _of_key(self) -> str | None:
        if self.key_owner == ZERO_ACCOUNT:
            return f"receipt key {self.receipt_key} is not registered: {JOIN} registers it"
        if not self.has_key:
            return _taken(self.receipt_key, self.key_owner)
        if self.receipt_key not in self.keys:
            return (
                f"receipt key {self.receipt_key} is registered, but not in the index yet: "
                "see that `loraledger index` runs"
            )
        return None

    def _of_stake(self) -> str | None:
        if self.cover == 0:
            return f"no stake covers a batch: {JOIN}" + self._or_cancel()
        if self.cover < self.cover_needed:
            needed = in_dollars(self.cover_needed)
            return (
                f"{in_dollars(self.cover)} cover new batches, {needed} are needed: {JOIN}{self._or_cancel()}"
            )
        return None

    def _or_cancel(self) -> str:
        return ", or `loraledger operator unstake 0` to keep what leaves" if self.leaving else ""

    def _of_gas(self) -> str | None:
        return None if self.wei else f"{self.account} has nothing to pay gas with: send it the network's coin"


class Membership:
    """`domain`: the registry's, in which a receipt key consents. `chain_now`: unix seconds."""

    def __init__(
        self,
        db: Database,
        chain: Chain,
        own: Account,
        receipt_key: Signer,
        domain: TypedDomain,
        chain_now: Callable[[], int],
    ) -> None:
        self._db, self._chain, self._wishes = db, chain, OperatorTransactions(db, chain, own)
        self._own, self._receipt_key, self._domain = own, receipt_key, domain
        self._token, self._now = PaymentToken(chain), chain_now

    def place(self) -> Place:
        """Errors: `Unavailable` without the chain."""
        with self._db.read() as tx:
            known = tx.chain.operator(self._own)
            waits = tx.figures(self._own, datetime.now(UTC)).unsettled_units
        kept, key = self._ask("stakeOf", self._own), self._receipt_key.account
        return Place(
            account=self._own,
            endpoint=known.endpoint if known else "",
            keys=known.keys if known else (),
            receipt_key=key,
            key_owner=self._ask("operatorOfKey", key),
            stake=kept["stake"],
            leaving=self._leaving(kept),
            owed=self._ask("owed", self._own),
            cover_needed=self._cover_needed(waits),
            wei=self._chain.balance(self._own),
        )

    def join(self, units: int) -> list[ChainTransaction]:
        """Have the stake brought to `units` token units and the receipt key registered, as far as it is not.
        The token must allow the registry to take the stake first: a transaction of its own.

        Errors: `InvalidInput`, and `Conflict` where the token or the key does not allow it.
        """
        if units <= 0:
            raise InvalidInput("A stake is more than nothing.", param="stake")
        key_calls = self._key_calls()  # judged first: a stake is of no use to whoever has no receipt key
        return self._wishes.queue([*self._stake_calls(units), *key_calls])

    def announce(self, endpoint: str) -> ChainTransaction:
        """Have it registered that this operator serves at `endpoint`, nowhere if it is empty."""
        parts = urlsplit(endpoint)
        is_url = parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment)
        if endpoint and not (is_url and endpoint.isascii() and len(endpoint) <= MAX_ENDPOINT):
            raise InvalidInput(
                f"{endpoint!r} is no http(s) URL of at most {MAX_ENDPOINT} characters.", param="endpoint"
            )
        return self._wishes.add(Call(REGISTRY, "setEndpoint", (endpoint,), "endpoint"))

    def unstake(self, amount: int) -> list[ChainTransaction]:
        """Ask `amount` micro-units of the stake back, in the place of what was asked back before; 0 keeps it.

        Errors: `InvalidInput` above the stake; `Conflict` where it would only begin the wait anew.
        """
        kept = self._ask("stakeOf", self._own)
        if amount > kept["stake"]:
            raise InvalidInput(f"The stake is {in_dollars(kept['stake'])}: less than that.", param="amount")
        if amount == 0 and not kept["unstakeAt"]:
            raise Conflict("Nothing of the stake leaves: there is nothing to cancel.")
        if amount and amount == kept["unstaking"]:
            raise Conflict(
                f"{in_dollars(amount)} leave already, from {instant(kept['unstakeAt'])} on; asking again "
                "would begin the wait anew."
            )
        wish = f"unstake:{kept['unstaking']}:{kept['unstakeAt']}:{amount}"
        return self._wishes.queue([Call(REGISTRY, "startUnstake", (str(amount),), wish)])

    def withdraw(self) -> list[ChainTransaction]:
        """Take what has left the stake, and what slashes owe this account.

        Errors: `StillLocked` where something leaves that cannot be had yet, and nothing is owed; `Conflict`
        where nothing is to be had at all.
        """
        kept, owed = self._ask("stakeOf", self._own), self._ask("owed", self._own)
        locked = self._locked(kept)
        if locked is not None and not owed:
            raise locked
        calls = [] if locked else [Call(REGISTRY, "unstake", (), f"taken:{kept['unstakeAt']}")]
        calls += [Call(REGISTRY, "withdrawOwed", (), f"owed:{owed}")] if owed else []
        return self._wishes.queue(calls)

    def transaction(self, transaction_id: int) -> ChainTransaction:
        return self._wishes.transaction(transaction_id)

    # --- what the contracts say ---

    def _ask(self, function: str, account: Account) -> Any:
        return self._chain.call(REGISTRY, function, account)

    def _leaving(self, kept: dict[str, int]) -> Leaving | None:
        if not kept["unstakeAt"]:
            return None
        number, state = kept["lockedByBatch"], self._chain.call(SETTLEMENT, "stateOf", self._own)
        is_settled = state["finalised"] == state["last"] and not state["toRefund"]
        is_final = is_settled or state["finalised"] >= number
        amount = min(kept["unstaking"], kept["stake"])
        return Leaving(amount, kept["unstakeAt"], None if is_final else number)

    def _cover_needed(self, waits: int) -> int:
        pot = self._chain.call(VAULT, "potOf", self._chain.address(SETTLEMENT), self._own)
        return mul_ppm_down(pot + waits, self._chain.call(PARAMETERS, "current")["stakeCoverPpm"])

    def _locked(self, kept: dict[str, int]) -> Conflict | None:
        """Why nothing of the stake can be taken now."""
        leaving = self._leaving(kept)
        if leaving is None:
            return Conflict(
                "Nothing of the stake leaves: `loraledger operator unstake DOLLARS` asks it back."
            )
        if leaving.amount < UNIT:
            return Conflict("Nothing is left of what was asked back: it was slashed.")
        if self._now() < leaving.free_at:
            return StillLocked(f"{in_dollars(leaving.amount)} leave, from {instant(leaving.free_at)} on.")
        if leaving.locked_by is not None:
            return StillLocked(
                f"{in_dollars(leaving.amount)} leave once batch {leaving.locked_by} is final: "
                "`loraledger settle` sees to it after its dispute window."
            )
        return None

    # --- what is missing ---

    def _stake_calls(self, units: int) -> list[Call]:
        has = self._ask("stakeOf", self._own)["stake"]
        missing = units - has // UNIT
        if missing <= 0:
            return []
        if (held := self._token.held(self._own)) < missing:
            raise Conflict(
                f"Stake lacks {in_dollars(missing * UNIT)}, and {self._own} has {in_dollars(held * UNIT)} "
                f"of the payment token {self._chain.address(PAYMENT_TOKEN)}: send it the rest.",
                details={"held_units": str(held), "missing_units": str(missing)},
            )
        wish = f"stake:{has}:{units}"
        return [*self._approvals(missing), Call(REGISTRY, "stake", (str(missing),), wish)]

    def _approvals(self, units: int) -> list[Call]:
        registry = self._chain.address(REGISTRY)
        allowed = self._token.allowance(self._own, registry)
        if allowed >= units:
            return []
        # Some tokens let an allowance change from or to nothing only.
        steps = [0, units] if allowed else [units]
        return [
            Call(PAYMENT_TOKEN, "approve", (registry, str(step)), f"approve:{allowed}:{units}")
            for step in steps
        ]

    def _key_calls(self) -> list[Call]:
        """Errors: `Conflict` for a key that is never this operator's."""
        key = self._receipt_key.account
        if key == self._own:
            raise Conflict(f"{key} is the operator itself: a receipt key is another account. {_ANOTHER_KEY}")
        owner = self._ask("operatorOfKey", key)
        if owner == self._own:
            return []
        if owner != ZERO_ACCOUNT:
            raise Conflict(_taken(key, owner))
        consent = self._receipt_key.sign(self._domain.receipt_key_digest(self._own))
        return [Call(REGISTRY, "addReceiptKey", (key, consent), f"key:{key}", is_simulated=True)]


def _taken(key: Account, owner: Account) -> str:
    return f"receipt key {key} is bound to operator {owner} for ever. {_ANOTHER_KEY}"


def instant(at: int) -> str:
    """Unix seconds as people read them."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
