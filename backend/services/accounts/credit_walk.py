"""Walks through what batches credit to an account: operator by operator, newest batch first.

Credits are stored for accounts that signed in here, by the first audit or walk after that. Others are read
from the batches' data, a bounded number of receipts per walk. Balances tell which batches have to be read: if
the balance before a stored credit is the one after the next older stored credit, no batch in between credits
anything.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from backend.domain.earnings import Credit, Earning, EarningFilter, EarningState, earning_state
from backend.domain.errors import DomainError, InvalidInput, Unavailable
from backend.domain.ids import ZERO_HASH, Account, Hash32
from backend.domain.settlement import BatchState
from backend.services.accounts.claims import MAX_OPERATORS, claimed_by_operator
from backend.services.audit.auditor import ledger_of, newest_audited
from backend.services.audit.cases import AnotherLargeBatch
from backend.services.audit.earnings import TooManyEntries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.batch import OperatorLedger
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain_view import ChainView
    from backend.services.audit.earnings import PublishedEntries

CHUNK = 100
"""Batches, or numbers of credited ones, that a walk reads from the database at once."""
MAX_RECEIPTS_READ = 10_000
"""Receipts of batch data that one walk reads; a single batch may have more."""


class StaleCursor(InvalidInput):
    """The batch that the cursor names is not valid any more: a void or a reorganisation removed it."""


@dataclass(frozen=True, slots=True)
class EarningsQuery:
    """Whose entries are wanted, and which. `since` and `until` are UTC days of the batch's commit, both
    included. Without `state`, entries of void batches are left out: they credit nothing.
    """

    account: Account
    since: date | None = None
    until: date | None = None
    operator: Account | None = None
    state: EarningState | None = None
    wanted: EarningFilter = field(default_factory=EarningFilter)

    def __post_init__(self) -> None:
        """Errors: `InvalidInput`."""
        if self.since and self.until and self.since > self.until:
            raise InvalidInput(f"`since` ({self.since}) is after `until` ({self.until}).", param="since")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a walk continues: at a batch, after the entry at `place` (-1: before the first). `balance`: the
    account's after the batch. With the hash 0, it continues at the operator's newest batch.
    """

    operator: Account
    batch_hash: Hash32
    place: int
    balance: int

    def __str__(self) -> str:
        return f"{self.operator}:{self.batch_hash}:{self.place}:{self.balance}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Errors: ValueError."""
        operator, batch_hash, place, balance = text.split(":")
        if not -1 <= int(place) < 1 << 64:
            raise ValueError("no place of an entry")
        return cls(Account(operator), Hash32(batch_hash), int(place), int(balance))


@dataclass(frozen=True, slots=True)
class Credited:
    """A credit and its batch. `earnings`: its entries where they were read from the batch's data."""

    batch: CommittedBatch
    state: EarningState
    credit: Credit
    earnings: tuple[Earning, ...] | None

    @property
    def day(self) -> date:
        return day_of(self.batch)


class CreditWalk:
    """Iterates over the credits that a query wants. No transaction is open while it reads batch data, which
    may have to be fetched.

    Afterwards `rest` is where the next walk continues; None unless this one reached the limit of what it
    reads. `found` are the credits that were read and can be stored, empty ones too, which are then read once.
    `unlisted` are the operators of which it left out batches with too many entries, with the reason.
    """

    def __init__(
        self,
        db: Database,
        published: PublishedEntries,
        query: EarningsQuery,
        start: Position | None = None,
    ) -> None:
        self._db, self._published, self._query, self._start = db, published, query, start
        self._num_read, self._paid = 0, dict[Account, int]()
        self.rest: Position | None = None
        self.found: list[tuple[Credit, Sequence[Earning]]] = []
        self.unlisted: dict[Account, str] = {}

    @property
    def account(self) -> Account:
        return self._query.account

    @property
    def operators(self) -> list[Account]:
        """Those that the walk comes to."""
        return self._operators[:MAX_OPERATORS]

    @cached_property
    def _operators(self) -> list[Account]:
        """Those from the start on, in the order of their first batches: later ones join at the end. Errors:
        `StaleCursor`.
        """
        query, start = self._query, self._start
        with self._db.read() as tx:
            operators = [one for one in tx.chain.newest_batches() if query.operator in (None, one)]
        if start is None:
            return operators
        if start.operator not in operators:
            raise _stale(start)
        return operators[operators.index(start.operator) :]

    def __iter__(self) -> Iterator[Credited]:
        """Errors: `StaleCursor`; `Unavailable` if a batch's data is missing."""
        start = self._start
        with self._db.read() as tx:
            self._paid = claimed_by_operator(tx, self.account)
        walk = self._void if self._query.state is EarningState.VOID else self._valid
        for operator in self.operators:
            is_begun = start is not None and start.operator == operator and start.batch_hash != ZERO_HASH
            yield from walk(operator, start if is_begun else None)
            if self.rest is not None:
                return
        for operator in self._operators[MAX_OPERATORS:][:1]:
            self.rest = Position(operator, ZERO_HASH, -1, 0)

    def _valid(self, operator: Account, begin: Position | None) -> Iterator[Credited]:
        """Credits of the batches that are verified. No batch below a balance of zero credits the account."""
        with self._db.read() as tx:
            ledger = verified(tx, operator)
            newest, balance = ledger.number, ledger.balances.get(self._query.account, 0)
            paid = self._paid.get(operator, 0)
            top = newest if begin is None else _number(tx.chain, begin, newest)
        batches = _Batches(self._db, operator, ledger.hash)
        credits_, is_certain = _Credits(batches, self._query.account), True
        if begin is not None:
            is_certain = begin.balance == (balance if top == newest else credits_.balance(top))
            balance = begin.balance
        number = top
        while number and balance:
            stored = credits_.newest(number)
            at, known = (0, 0) if stored is None else (stored.number, stored.balance)
            if at < number and balance == known:
                number = at
                continue
            batch = batches.get(number)
            number -= 1
            if self._is_before(batch):
                return
            try:
                found = self._credited(batch, stored if at == batch.number else None, balance, paid)
            except TooManyEntries as error:
                self.unlisted[operator] = f"batch {batch.number}: {error.message}"
                balance -= error.amount
                continue
            if found is None:
                return
            is_certain = is_certain or found.earnings is None
            if is_certain and found.earnings is not None:
                self.found.append((found.credit, found.earnings))
            if found.credit.num_entries and self._is_wanted(found):
                yield found
            balance = found.credit.balance - found.credit.amount

    def _void(self, operator: Account, begin: Position | None) -> Iterator[Credited]:
        """What void batches would have credited. Those with data that is missing or wrong, or with too many
        entries, are left out.
        """
        with self._db.read() as tx:
            batches = tx.chain.void_batches(operator)
        top = len(batches) - 1 if begin is None else _index(batches, begin)
        for number in range(top, -1, -1):
            batch = batches[number]
            if self._is_before(batch) or self._is_after(batch):
                continue
            with self._db.read() as tx:
                stored = tx.earnings.credit(self._query.account, batch.hash)
            try:
                found = self._credited(batch, stored, 0, 0)
            except AnotherLargeBatch:
                raise
            except DomainError:
                continue
            if found is None:
                return
            if found.credit.num_entries:
                yield found

    def _credited(
        self, batch: CommittedBatch, stored: Credit | None, balance: int, paid: int
    ) -> Credited | None:
        """The credit of a batch; None, with `rest` set, if the walk has read enough."""
        credit, earnings = stored, None
        if credit is None:
            num_receipts = int(batch.header["receiptsCount"])
            if self._num_read and self._num_read + num_receipts > MAX_RECEIPTS_READ:
                self.rest = Position(batch.operator, batch.hash, -1, balance)
                return None
            self._num_read += num_receipts
            account = self._query.account
            earnings = tuple(self._published.of(batch, account))
            credit = Credit(
                account=account,
                operator=batch.operator,
                number=batch.number,
                batch_hash=batch.hash,
                credited_at=int(batch.header["committedAt"]),
                num_entries=len(earnings),
                amount=sum(earning.amount for earning in earnings),
                balance=balance,
            )
        return Credited(batch, earning_state(batch.state, credit.balance, paid), credit, earnings)

    def _is_wanted(self, found: Credited) -> bool:
        is_in_state = self._query.state in (None, found.state)
        return is_in_state and not self._is_after(found.batch)

    def _is_before(self, batch: CommittedBatch) -> bool:
        since = self._query.since
        return since is not None and day_of(batch) < since

    def _is_after(self, batch: CommittedBatch) -> bool:
        until = self._query.until
        return until is not None and day_of(batch) > until


def verified(tx: UnitOfWork, operator: Account) -> OperatorLedger:
    """The ledger after those of an operator's valid batches that are verified."""
    return ledger_of(tx, newest_audited(tx, operator))


def day_of(batch: CommittedBatch) -> date:
    """UTC day of the batch's commit."""
    return datetime.fromtimestamp(int(batch.header["committedAt"]), UTC).date()


class _Batches:
    """An operator's valid batches up to the `newest`, read in chunks: a walk may end long before the first
    one. While the newest is valid, they are those that its balances follow from.
    """

    def __init__(self, db: Database, operator: Account, newest: Hash32) -> None:
        self._db, self.operator, self._newest = db, operator, newest
        self._chunk: dict[int, CommittedBatch] = {}

    def get(self, number: int) -> CommittedBatch:
        """Errors: those of `read`."""
        if number not in self._chunk:
            with self.read(number) as tx:
                found = tx.chain.valid_batches(self.operator, number - CHUNK, number)
            self._chunk = {batch.number: batch for batch in found}
        return self._chunk[number]

    @contextmanager
    def read(self, number: int) -> Iterator[UnitOfWork]:
        """Read what concerns the batches up to this one. Errors: `Unavailable` if a void or a reorganisation
        removed the newest batch during the walk.
        """
        with self._db.read() as tx:
            if not tx.chain.valid_among([self._newest]):
                raise Unavailable(
                    f"batch {number} of {self.operator} became invalid while its entries were read; try again"
                )
            yield tx


class _Credits:
    """The stored credits of an account in an operator's valid batches, read in chunks."""

    def __init__(self, batches: _Batches, account: Account) -> None:
        self._batches, self._account = batches, account
        self._chunk: list[Credit] = []
        """Newest first."""
        self._numbers = range(0)
        """Of which the chunk has all credits."""

    def newest(self, until: int) -> Credit | None:
        """The credit of the newest credited batch up to this number. Errors: those of `_Batches.read`."""
        if until not in self._numbers:
            self._chunk, self._numbers = [], range(until + 1, until + 1)
        while (found := self._among(until)) is None and self._numbers.start > 1:
            self._read(until)
        return found

    def balance(self, number: int) -> int | None:
        """The balance after the batch with this number, as far as stored credits tell it.

        The balance in a cursor is what a client sends: nothing that relies on it is stored.
        """
        next_ = self.newest(number + 1)
        if next_ is not None and next_.number > number:
            return next_.balance - next_.amount
        return None if next_ is None or next_.number < number else next_.balance

    def _among(self, until: int) -> Credit | None:
        return next((credit for credit in self._chunk if credit.number <= until), None)

    def _read(self, until: int) -> None:
        """Read the chunk before this one."""
        last = self._numbers.start - 1
        with self._batches.read(last) as tx:
            found = tx.earnings.credits(self._account, self._batches.operator, last, CHUNK)
            valid = tx.chain.valid_among([credit.batch_hash for credit in found])
        first = found[0].number - CHUNK + 1 if found else 0
        self._chunk = [credit for credit in found if credit.batch_hash in valid]
        self._numbers = range(first, until + 1)


def _number(chain: ChainView, position: Position, newest: int) -> int:
    """Number of the position's batch, a valid one up to number `newest`. Errors: `StaleCursor`."""
    batch = chain.batch(position.batch_hash)
    is_valid = batch is not None and batch.state is not BatchState.VOID
    if batch is None or not is_valid or batch.operator != position.operator or batch.number > newest:
        raise _stale(position)
    return batch.number


def _index(batches: Sequence[CommittedBatch], position: Position) -> int:
    """Errors: `StaleCursor`."""
    found = next((n for n, batch in enumerate(batches) if batch.hash == position.batch_hash), None)
    if found is None:
        raise _stale(position)
    return found


def _stale(position: Position) -> StaleCursor:
    return StaleCursor(
        f"The batch {position.batch_hash} that `after` names is not valid any more; omit `after` to start"
        " again.",
        param="after",
    )
