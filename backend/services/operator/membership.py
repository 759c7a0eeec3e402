"""Our own operator at the `OperatorRegistry`: stake, receipt key and endpoint.

State is read from the contracts at the latest block, except for endpoint and keys, which only events have and
which come from the index. Calls that would fail are refused before they are queued.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.ids import ZERO_ACCOUNT, Account
from backend.domain.money import AMOUNT, UNIT, in_dollars, mul_ppm_to_units_up
from backend.services.operator.receipt_keys import NoReceiptKey
from backend.services.transactions.operator_transactions import Call, OperatorTransactions
from backend.services.transactions.payment_token import PaymentToken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.db.unit_of_work import Database
    from backend.domain.hashing import TypedDomain
    from backend.domain.transactions import ChainTransaction
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Signer
    from backend.services.operator.receipt_keys import ReceiptKeys

REGISTRY, SETTLEMENT, VAULT, PARAMETERS = "OperatorRegistry", "Settlement", "PaymentVault", "Parameters"
DISPUTES = "Disputes"
MAX_ENDPOINT = 256

JOIN = "`loraledger operator join --stake DOLLARS`"
_ANOTHER_KEY = "Create another (`loraledger market key`) and name it in LORALEDGER_RECEIPT_KEY."


class StakeLocked(Conflict):
    """The unstaking amount cannot be withdrawn yet."""


@dataclass(frozen=True, slots=True)
class Unstaking:
    """The part of a stake that is being withdrawn. It covers no new batch."""

    amount: int
    """Micro-units; less than requested if a slash left less."""
    locked_by: int | None
    """Number of a batch that must be final first; None if the amount can be withdrawn."""


@dataclass(frozen=True, slots=True)
class OperatorStatus:
    """Our operator's registration, stake and keys. Amounts in micro-units."""

    account: Account
    endpoint: str
    """The endpoint in the index of chain events; empty while the operator does not serve."""
    keys: tuple[Account, ...]
    """Receipt keys in the index of chain events, retired ones included."""
    retired: Mapping[Account, int]
    """When each retired key was retired, in unix seconds."""
    receipt_key: Account
    """The key with which this installation signs receipts; a retired one if it holds no other."""
    key_owner: Account
    """Operator to which that key is bound; the zero account if it is unbound."""
    stake: int
    """All that can be slashed, the unstaking amount included."""
    unstaking: Unstaking | None
    owed: int
    """Rewards of slashes owed to this account because their transfer failed."""
    cover_needed: int
    """Stake needed to cover the pot and a batch of all unsettled receipts."""
    wei: int
    """The account's balance for gas."""
    credit: int
    """Wei credited to this account in `Disputes`, by answered demands and bonds."""

    @property
    def cover(self) -> int:
        """The part of the stake that covers new batches."""
        return self.stake - (self.unstaking.amount if self.unstaking else 0)

    @property
    def has_key(self) -> bool:
        return self.key_owner == self.account

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why this installation cannot settle, each with a remedy; empty if it can."""
        found = (self._key_obstacle(), self._stake_obstacle(), self._gas_obstacle())
        return tuple(text for text in found if text is not None)

    def _key_obstacle(self) -> str | None:
        if self.key_owner == ZERO_ACCOUNT:
            return f"receipt key {self.receipt_key} is not registered: {JOIN} registers it"
        if not self.has_key:
            return _bound_elsewhere(self.receipt_key, self.key_owner)
        if self.receipt_key in self.retired:
            return (
                f"receipt key {self.receipt_key} is retired: `loraledger operator rotate-key "
                f"{self.receipt_key}` registers the next one"
            )
        if self.receipt_key not in self.keys:
            return (
                f"receipt key {self.receipt_key} is registered, but not in the index yet: "
                "check that `loraledger index` runs"
            )
        return None

    def _stake_obstacle(self) -> str | None:
        if self.cover == 0:
            return f"no stake covers a batch: {JOIN}" + self._or_cancel()
        if self.cover < self.cover_needed:
            needed = in_dollars(self.cover_needed)
            return (
                f"{in_dollars(self.cover)} cover new batches, {needed} are needed: {JOIN}{self._or_cancel()}"
            )
        return None

    def _or_cancel(self) -> str:
        return ", or `loraledger operator unstake 0` to cancel the unstaking" if self.unstaking else ""

    def _gas_obstacle(self) -> str | None:
        return (
            None
            if self.wei
            else f"{self.account} has no coin to pay for gas: send it some of the network's coin"
        )


class Membership:
    """`domain`: EIP-712 domain of the registry, for the receipt key's consent."""

    def __init__(
        self,
        db: Database,
        chain: Chain,
        own: Account,
        keys: ReceiptKeys,
        domain: TypedDomain,
    ) -> None:
        self._db, self._chain, self._transactions = db, chain, OperatorTransactions(db, chain, own)
        self._own, self._keys, self._domain = own, keys, domain
        self._token = PaymentToken(chain)

    def status(self) -> OperatorStatus:
        """Errors: `Unavailable` if the chain cannot be reached."""
        with self._db.read() as tx:
            known = tx.chain.operator(self._own)
            unsettled = tx.figures(self._own, datetime.now(UTC)).unsettled_units
            key = self._receipt_key(tx.chain)
        stake = self._call("stakeOf", self._own)
        return OperatorStatus(
            account=self._own,
            endpoint=known.endpoint if known else "",
            keys=known.keys if known else (),
            retired=known.retired if known else {},
            receipt_key=key,
            key_owner=self._call("operatorOfKey", key),
            stake=stake["stake"],
            unstaking=self._unstaking(stake),
            owed=self._call("owed", self._own),
            credit=self._credit(),
            cover_needed=self._cover_needed(unsettled),
            wei=self._chain.balance(self._own),
        )

    def join(self, units: int) -> list[ChainTransaction]:
        """Raise the stake to `units` token units and register the receipt key, as far as needed. The token
        allowance for the registry is a transaction before that.

        Errors: `InvalidInput`; `Conflict` if the tokens do not suffice or the key cannot be registered.
        """
        if units <= 0:
            raise InvalidInput("The stake must be positive.", param="stake")
        key_calls = self._key_calls()  # checked first: a stake is useless without a receipt key
        return self._transactions.queue([*self._stake_calls(units), *key_calls])

    def announce(self, endpoint: str) -> ChainTransaction:
        """Register `endpoint` as this operator's base URL; empty: it does not serve."""
        parts = urlsplit(endpoint)
        is_url = parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment)
        if endpoint and not (is_url and endpoint.isascii() and len(endpoint) <= MAX_ENDPOINT):
            raise InvalidInput(
                f"{endpoint!r} is not an http(s) URL of at most {MAX_ENDPOINT} characters.", param="endpoint"
            )
        return self._transactions.add(Call(REGISTRY, "setEndpoint", (endpoint,), "endpoint"))

    def unstake(self, amount: int) -> list[ChainTransaction]:
        """Start to withdraw `amount` micro-units of the stake, replacing an earlier request; 0 cancels it.

        Errors: `InvalidInput` above the stake; `Conflict` if it would only lock the amount for longer.
        """
        stake = self._call("stakeOf", self._own)
        if amount > stake["stake"]:
            raise InvalidInput(f"The stake is only {in_dollars(stake['stake'])}.", param="amount")
        if amount == 0 and not stake["unstaking"]:
            raise Conflict("No part of the stake is being withdrawn: there is nothing to cancel.")
        if amount and amount == stake["unstaking"]:
            raise Conflict(
                f"{in_dollars(amount)} are already being withdrawn; another request would lock them until "
                "the newest batch is final."
            )
        intent = f"unstake:{stake['unstaking']}:{stake['lockedByBatch']}:{amount}"
        return self._transactions.queue([Call(REGISTRY, "startUnstake", (str(amount),), intent)])

    def restake(self, registry: Account, units: int) -> list[ChainTransaction]:
        """Move `units` token units of the stake to this account's stake at another generation's `registry`.

        Errors: `InvalidInput` above the stake; `StakeLocked` while a batch is pending or to be refunded;
        `Reverted` if the registry would refuse it.
        """
        stake = self._call("stakeOf", self._own)["stake"]
        if registry == self._chain.address(REGISTRY):
            raise InvalidInput(f"{registry} is the registry that holds the stake.", param="registry")
        if not 0 < units * UNIT <= stake:
            raise InvalidInput(f"The stake is {in_dollars(stake)}.", param="units")
        if not _is_settled(self._state()):
            raise StakeLocked(
                "Stake moves only while no batch is pending or to be refunded: `loraledger settle` finalises "
                "and refunds them."
            )
        intent = f"restake:{stake}:{units}"
        call = Call(REGISTRY, "restake", (registry, str(units)), intent, is_simulated=True)
        return self._transactions.queue([call])

    def withdraw(self, *, needs_stake: bool = False) -> list[ChainTransaction]:
        """Withdraw the unstaked amount, what slashes owe this account, and its credit for answers.

        Errors, if `needs_stake` or nothing is owed or credited: `StakeLocked` while the unstaking amount is
        locked; `Conflict` if there is none to withdraw.
        """
        stake, owed = self._call("stakeOf", self._own), self._call("owed", self._own)
        locked = self._locked(stake)
        credit = self._credit()
        if locked is not None and (needs_stake or not (owed or credit)):
            raise locked
        calls = (
            []
            if locked
            else [Call(REGISTRY, "unstake", (), f"taken:{stake['unstaking']}:{stake['lockedByBatch']}")]
        )
        calls += [Call(REGISTRY, "withdrawOwed", (self._own,), f"owed:{owed}")] if owed else []
        calls += [Call(DISPUTES, "withdrawCredit", (self._own,), f"credit:{credit}")] if credit else []
        return self._transactions.queue(calls)

    # --- state of the contracts ---

    def _call(self, function: str, account: Account) -> Any:
        return self._chain.call(REGISTRY, function, account)

    def _state(self) -> dict[str, int]:
        state: dict[str, int] = self._chain.call(SETTLEMENT, "stateOf", self._own)
        return state

    def _receipt_key(self, view: ChainView) -> Account:
        """The account of the key in use; of the configured key if all are retired."""
        try:
            return self._keys.in_use(view).account
        except NoReceiptKey:
            return self._keys.configured().account

    def _credit(self) -> int:
        return int(self._chain.call(DISPUTES, "creditOf", self._own))

    def _unstaking(self, stake: dict[str, int]) -> Unstaking | None:
        if not stake["unstaking"]:
            return None
        number, state = stake["lockedByBatch"], self._state()
        is_final = _is_settled(state) or state["finalised"] >= number
        amount = min(stake["unstaking"], stake["stake"])
        return Unstaking(amount, None if is_final else number)

    def _cover_needed(self, unsettled: int) -> int:
        pot = self._chain.call(VAULT, "potOf", self._chain.address(SETTLEMENT), self._own)
        return UNIT * mul_ppm_to_units_up(
            pot + unsettled, self._chain.call(PARAMETERS, "current")["stakeCoverPpm"]
        )

    def _locked(self, stake: dict[str, int]) -> Conflict | None:
        """Why no part of the stake can be withdrawn now."""
        unstaking = self._unstaking(stake)
        if unstaking is None:
            return Conflict(
                "No part of the stake is being withdrawn: `loraledger operator unstake DOLLARS` starts it."
            )
        if unstaking.amount < UNIT:
            return Conflict("Nothing is left of the requested amount: it was slashed.")
        if unstaking.locked_by is not None:
            return StakeLocked(
                f"{in_dollars(unstaking.amount)} can be withdrawn once batch {unstaking.locked_by} is final: "
                "`loraledger settle` finalises it after its dispute window."
            )
        return None

    # --- missing stake and key ---

    def _stake_calls(self, units: int) -> list[Call]:
        current = self._call("stakeOf", self._own)["stake"]
        missing = units - current // UNIT
        if missing <= 0:
            return []
        if (balance := self._token.balance(self._own)) < missing:
            raise Conflict(
                f"The stake lacks {in_dollars(missing * UNIT)}, and {self._own} has only "
                f"{in_dollars(balance * UNIT)} of the payment token {self._chain.address(PAYMENT_TOKEN)}: "
                "send it the rest.",
                details={"held": AMOUNT.render(balance * UNIT), "missing": AMOUNT.render(missing * UNIT)},
            )
        intent = f"stake:{current}:{units}"
        return [*self._approvals(missing), Call(REGISTRY, "stake", (str(missing),), intent)]

    def _approvals(self, units: int) -> list[Call]:
        registry = self._chain.address(REGISTRY)
        allowed = self._token.allowance(self._own, registry)
        if allowed >= units:
            return []
        # Some tokens allow an allowance to change only from or to zero.
        steps = [0, units] if allowed else [units]
        return [
            Call(PAYMENT_TOKEN, "approve", (registry, str(step)), f"approve:{allowed}:{units}")
            for step in steps
        ]

    def _key_calls(self) -> list[Call]:
        """Errors: `Conflict` for a key that cannot be this operator's."""
        with self._db.read() as tx:
            signer: Signer = self._keys.in_use(tx.chain)
        key = signer.account
        if key == self._own:
            raise Conflict(
                f"{key} is the operator's own account; the receipt key must be another one. {_ANOTHER_KEY}"
            )
        owner = self._call("operatorOfKey", key)
        if owner == self._own:
            return []
        if owner != ZERO_ACCOUNT:
            raise Conflict(_bound_elsewhere(key, owner))
        consent = signer.sign(self._domain.receipt_key_digest(self._own))
        return [Call(REGISTRY, "addReceiptKey", (key, consent), f"key:{key}", is_simulated=True)]


def _is_settled(state: dict[str, int]) -> bool:
    """Whether no batch is pending or to be refunded."""
    return state["finalised"] == state["last"] and not state["toRefund"]


def _bound_elsewhere(key: Account, owner: Account) -> str:
    return f"receipt key {key} is permanently bound to operator {owner}. {_ANOTHER_KEY}"
