"""Earnings that accounts can claim from operators' final batches, and claim transactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Conflict, DomainError, Unavailable
from backend.domain.money import UNIT
from backend.services.audit.auditor import WrongBatch, not_void
from backend.services.transactions.retry import enqueue_with_retry

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.batch import OperatorLedger
    from backend.domain.ids import Account, Hash32
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.chain import Chain
    from backend.services.audit.auditor import Auditor

MIN_RELAYED_UNITS = 10
"""The operator pays the gas of a relayed claim: the earner's own wallet sends smaller ones."""


class NothingToClaim(Conflict):
    """The account can claim less than the minimum; `details` has the amount."""


@dataclass(frozen=True, slots=True)
class Claimable:
    """Earnings of an account from one operator, by its latest final batch. Amounts in micro-units."""

    operator: Account
    account: Account
    cumulative: int
    claimed: int
    unverifiable: str | None = None
    """Why the operator's balances cannot be verified now. `cumulative` is then the amount already claimed."""

    @property
    def amount(self) -> int:
        return self.cumulative - self.claimed

    @property
    def units(self) -> int:
        """Whole token units, which a claim pays; the remainder stays credited."""
        return self.amount // UNIT


class Claims:
    """Claims of any account's earnings from any operator. Relayed claims are sent by `lane`."""

    def __init__(
        self,
        db: Database,
        auditor: Auditor,
        chain: Chain,
        lane: Account,
    ) -> None:
        self._db, self._auditor = db, auditor
        self._chain, self._lane = chain, lane

    def claimable(self, account: Account) -> list[Claimable]:
        """What the account can claim from each operator that credited it in a final batch.

        Includes operators whose batches cannot be verified.
        """
        with self._db.read() as tx:
            operators = [operator.account for operator in tx.chain.operators()]
        found = (self._claimable_or_unverifiable(operator, account) for operator in operators)
        return [one for one in found if one is not None]

    def prepare(
        self, operator: Account, account: Account, sender: Account | None = None
    ) -> PreparedTransaction:
        """Prepare the claim, which any wallet may send; simulated if `sender` is given.

        Errors: `NothingToClaim` below one token unit; `Reverted`.
        """
        request, _ = self._request(operator, account, min_units=1)
        return self._chain.prepare("Settlement", "claim", request, sender=sender)

    def relay(self, operator: Account, account: Account, min_units: int = 1) -> int:
        """Enqueue the claim as our own transaction; returns its row id. It pays the account's payout wallet.

        Errors: `NothingToClaim` below `min_units` token units.
        """
        request, batch_hash = self._request(operator, account, min_units)
        call, key = ("Settlement", "claim"), f"claim:{batch_hash}:{account}"
        with self._db.begin() as tx:
            queued = enqueue_with_retry(tx, self._lane, call, [request], key)
            tx.transactions.record_request(account, queued)
            return queued

    def _claimable(self, operator: Account, account: Account) -> Claimable | None:
        ledger = self._final_ledger(operator)
        if ledger is None or account not in ledger.balances:
            return None
        return Claimable(operator, account, ledger.balances[account], self._claimed(operator, account))

    def _claimable_or_unverifiable(self, operator: Account, account: Account) -> Claimable | None:
        try:
            return self._claimable(operator, account)
        except DomainError as error:
            claimed = self._claimed(operator, account)
            return Claimable(operator, account, claimed, claimed, unverifiable=error.message)

    def _claimed(self, operator: Account, account: Account) -> int:
        with self._db.read() as tx:
            claims = (c.cumulative for c in tx.chain.claims(account) if c.operator == operator)
            return max(claims, default=0)

    def _request(self, operator: Account, account: Account, min_units: int) -> tuple[dict[str, Any], Hash32]:
        """The `Claim` of `Settlement.claim`, and the hash of the batch whose balances it opens."""
        found, ledger = self._claimable(operator, account), self._final_ledger(operator)
        amount = 0 if found is None else found.amount
        minimum = min_units * UNIT
        if ledger is None or amount < minimum:
            text = f"{account} has {amount} micro-units to claim from {operator}, less than {minimum}"
            if amount >= UNIT:
                text += "; the account's own wallet can still claim it"
            raise NothingToClaim(text, "account", {"amount": str(amount)})
        request = {
            "operator": operator,
            "account": account,
            "balancesCount": len(ledger.balances),
            "opening": ledger.open_balance(account).abi,
        }
        return request, ledger.hash

    def _final_ledger(self, operator: Account) -> OperatorLedger | None:
        """The ledger after the operator's latest final batch; None before the first."""
        with self._db.read() as tx:
            number = tx.chain.finalised(operator)
            batches = not_void(tx.chain.batches(operator))
        final = next((batch.hash for batch in batches if batch.number == number), None)
        if final is None:
            return None
        return self._mirrored(operator, final) or self._audited(operator, final)

    def _audited(self, operator: Account, batch_hash: Hash32) -> OperatorLedger:
        try:
            self._auditor.follow(operator)
        except WrongBatch:
            # A later batch is wrong; the final one is usable if it was verified before.
            if (ledger := self._mirrored(operator, batch_hash)) is not None:
                return ledger
            raise
        ledger = self._mirrored(operator, batch_hash)
        if ledger is None:
            raise Unavailable(f"the balances of {operator} changed during the audit; try again")
        return ledger

    def _mirrored(self, operator: Account, batch_hash: Hash32) -> OperatorLedger | None:
        with self._db.read() as tx:
            return tx.batches.ledger(operator, batch_hash)
