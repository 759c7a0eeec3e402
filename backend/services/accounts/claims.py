"""Earnings that accounts can claim from operators' final batches, and claim transactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Conflict, DomainError, InvalidInput, Unavailable
from backend.domain.ids import Account
from backend.domain.money import AMOUNT, UNIT, in_dollars
from backend.services.audit.auditor import ledger_of, newest_final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.batch import OperatorLedger
    from backend.domain.ids import Hash32
    from backend.domain.settlement import CommittedBatch
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.chain import Chain
    from backend.services.audit.background import BackgroundAudits
    from backend.services.transactions.relays import Relays

MAX_OPERATORS = 100
"""Operators of a page of earnings, or of what can be claimed: anyone can register many, each with a batch to
verify.
"""
MIN_RELAYED_UNITS = 10
"""The operator pays the gas of a relayed claim: the earner's own wallet sends smaller ones."""


@dataclass(frozen=True, slots=True)
class OperatorCursor:
    """A list continues after `operator`. The operators of the account's stored credits up to row `newest`
    come first on all of its pages, in the order of their sums without the batches that were void at
    `block`. Credits and voids after the first page do not change the order.
    """

    newest: int
    block: int
    operator: Account

    def __str__(self) -> str:
        return f"{self.newest}:{self.block}:{self.operator}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Errors: ValueError."""
        *numbers, operator = text.split(":")
        newest, block = map(int, numbers)
        if not all(0 <= number < 1 << 63 for number in (newest, block)):
            raise ValueError("no row of a credit, or no block")
        return cls(newest, block, Account(operator))


class NothingToClaim(Conflict):
    """The account can claim less than the minimum; `details` has both amounts."""


@dataclass(frozen=True, slots=True)
class Claimable:
    """Earnings of an account from one operator by its latest verified final batch, in micro-units."""

    operator: Account
    account: Account
    cumulative: int
    claimed: int
    unverifiable: str | None = None
    """Why the balances of the operator's latest final batch cannot be verified now. `cumulative` is then that
    of an earlier final batch, or the amount already claimed.
    """

    @property
    def unclaimed(self) -> int:
        return self.cumulative - self.claimed

    @property
    def units(self) -> int:
        """Whole token units, which a claim pays; the remainder stays credited."""
        return self.unclaimed // UNIT

    @property
    def claimable(self) -> int:
        """What a claim pays, in micro-units."""
        return self.units * UNIT


@dataclass(frozen=True, slots=True)
class ClaimablePage:
    """`rest`: where the next page begins; None after the last. A page may be empty before the last one."""

    found: tuple[Claimable, ...]
    rest: OperatorCursor | None


@dataclass(frozen=True, slots=True)
class _Verified:
    """The latest final batch of an operator whose balances are verified."""

    batch: CommittedBatch | None
    """None if no final batch is verified."""
    ledger: OperatorLedger
    """The one after the batch; empty if there is none."""
    error: DomainError | None = None
    """Why the latest final batch is not verified; None if it is, or if there is none."""


class Claims:
    """Claims of any account's earnings from any operator."""

    def __init__(self, db: Database, audits: BackgroundAudits, chain: Chain, relays: Relays) -> None:
        self._db, self._audits = db, audits
        self._chain, self._relays = chain, relays

    def claimable(
        self, account: Account, after: OperatorCursor | None = None, limit: int = MAX_OPERATORS
    ) -> ClaimablePage:
        """What the account can claim from those of the next `limit` operators that credited it in a final
        batch, or whose batches cannot be verified. First come those that are known to have credited it, the
        largest sum first, then all others in the order of their first batches.

        Errors: `InvalidInput` if no operator is the cursor's.
        """
        with self._db.read() as tx:
            if after is None:
                newest, cursor = tx.earnings.newest_credit(account), tx.chain.cursor()
                block = 0 if cursor is None else cursor.number
            else:
                newest, block = after.newest, after.block
            known = tx.earnings.operators(account, newest, block)
            operators = list(dict.fromkeys([*known, *tx.chain.newest_batches()]))
        start = 0 if after is None else _place(operators, after) + 1
        page = operators[start : start + limit]
        failed = self._follow(page)
        with self._db.read() as tx:
            paid = claimed_by_operator(tx, account)
            found = [self._claimable(tx, one, account, paid.get(one, 0), failed.get(one)) for one in page]
        has_more = start + limit < len(operators)
        return ClaimablePage(
            tuple(one for one in found if one.cumulative or one.unverifiable),
            OperatorCursor(newest, block, page[-1]) if has_more else None,
        )

    def claimable_from(self, operator: Account, account: Account) -> Claimable:
        """What the account can claim from the operator."""
        error = self._follow([operator], is_urgent=True).get(operator)
        with self._db.read() as tx:
            return self._claimable(tx, operator, account, claimed(tx, operator, account), error)

    def prepare(
        self, operator: Account, account: Account, sender: Account | None = None
    ) -> PreparedTransaction:
        """Prepare the claim, which any wallet may send; simulated if `sender` is given.

        Errors: `NothingToClaim` below one token unit; `Reverted`.
        """
        request, _ = self._request(operator, account, min_units=1)
        return self._chain.prepare("Settlement", "claim", request, sender=sender)

    def relay(
        self, operator: Account, account: Account, min_units: int = 1, requester: Account | None = None
    ) -> int:
        """Enqueue the claim as our own transaction; returns its row id. It pays the account's payout wallet
        and is relayed for `requester`, by default the account.

        Errors, after which nothing is queued: `NothingToClaim` below `min_units` token units; those of
        `Relays.relay`.
        """
        request, batch_hash = self._request(operator, account, min_units)
        key = f"claim:{batch_hash}:{account}"
        return self._relays.relay(requester or account, ("Settlement", "claim"), [request], key)

    def _claimable(
        self, tx: UnitOfWork, operator: Account, account: Account, paid: int, error: DomainError | None
    ) -> Claimable:
        verified = _verified(tx, operator, error)
        earned = verified.ledger.balances.get(account, 0)
        reason = verified.error.message if verified.error else None
        return Claimable(operator, account, max(earned, paid), paid, unverifiable=reason)

    def _request(self, operator: Account, account: Account, min_units: int) -> tuple[dict[str, Any], Hash32]:
        """The `Claim` of `Settlement.claim`, and the hash of the batch whose balances it opens."""
        error = self._follow([operator], is_urgent=True).get(operator)
        with self._db.read() as tx:
            verified, paid = _verified(tx, operator, error), claimed(tx, operator, account)
        if verified.batch is None and verified.error is not None:
            raise verified.error
        earned = verified.ledger.balances.get(account, 0)
        amount, minimum = max(earned - paid, 0), min_units * UNIT
        if verified.batch is None or amount < minimum:
            if isinstance(verified.error, Unavailable):
                raise verified.error  # there may be more in the batches that are not verified yet
            least = in_dollars(minimum)
            text = f"{account} has {in_dollars(amount)} to claim from {operator}, less than {least}"
            if amount >= UNIT:
                text += "; the account's own wallet can still claim it"
            details = {"unclaimed": AMOUNT.render(amount), "minimum": AMOUNT.render(minimum)}
            raise NothingToClaim(text, "account", details)
        header, opening = dict(verified.batch.header), verified.ledger.open_balance(account)
        request = {"header": header, "account": account, "opening": opening.abi}
        return request, verified.batch.hash

    def _follow(self, operators: Sequence[Account], *, is_urgent: bool = False) -> dict[Account, DomainError]:
        """Audit operators whose latest final batch is not verified. Returns why some still are not."""
        with self._db.read() as tx:
            behind = [operator for operator in operators if not _is_verified(tx, operator)]
        return self._audits.follow(behind, is_urgent=is_urgent)


def _place(operators: Sequence[Account], after: OperatorCursor) -> int:
    if after.operator not in operators:
        raise InvalidInput(
            f"The operator {after.operator} that `after` names has no batch any more; omit `after` to start "
            "again.",
            param="after",
        )
    return operators.index(after.operator)


def _verified(tx: UnitOfWork, operator: Account, error: DomainError | None) -> _Verified:
    """The operator's latest final batch whose balances are verified. `error`: of an audit of it.

    Any final batch can be claimed against: one that is wrong, or whose data is missing, withholds nothing
    that earlier ones credited.
    """
    newest, batch = tx.chain.finalised(operator), newest_final(tx, operator)
    ledger = ledger_of(tx, batch)
    if newest == (0 if batch is None else batch.number):
        return _Verified(batch, ledger)
    error = error or Unavailable(f"the balances of {operator} changed during the audit; try again")
    return _Verified(batch, ledger, error)


def _is_verified(tx: UnitOfWork, operator: Account) -> bool:
    latest = newest_final(tx, operator)
    return tx.chain.finalised(operator) == (0 if latest is None else latest.number)


def claimed(tx: UnitOfWork, operator: Account, account: Account) -> int:
    """Cumulative earnings from the operator that the account has claimed, in micro-units."""
    return claimed_by_operator(tx, account).get(operator, 0)


def claimed_by_operator(tx: UnitOfWork, account: Account) -> dict[Account, int]:
    """`claimed`, from each operator that the account claimed from."""
    found: dict[Account, int] = {}
    for claim in tx.chain.claims(account):
        found[claim.operator] = max(claim.cumulative, found.get(claim.operator, 0))
    return found
