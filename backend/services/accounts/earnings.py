"""Why an account earned: the entries of operators' batches, and their sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.earnings import EarningsBy, EarningState
from backend.domain.ids import Hash32, VersionId
from backend.services.accounts.credit_walk import Credited, CreditWalk, Position
from backend.services.market.catalogue import versions_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.earnings import Credit, Earning
    from backend.domain.ids import Account
    from backend.services.accounts.credit_walk import EarningsQuery
    from backend.services.audit.background import BackgroundAudits
    from backend.services.audit.earnings import PublishedEntries

MAX_BATCHES = 500
"""Batches whose stored entries are loaded at once."""


@dataclass(frozen=True, slots=True)
class ListedEarning:
    """An entry, and the credit that it is part of. `adapter`: full name of the adapter version."""

    credit: Credit
    state: EarningState
    earning: Earning
    adapter: str


@dataclass(frozen=True, slots=True)
class Unverifiable:
    """An operator of which batches cannot be verified or listed here. What they credit is left out."""

    operator: Account
    reason: str


@dataclass(frozen=True, slots=True)
class EarningsPage:
    """`rest`: where the next page begins; None after the last."""

    entries: tuple[ListedEarning, ...]
    rest: Position | None
    unverifiable: tuple[Unverifiable, ...]


@dataclass(slots=True)
class Totals:
    """Number and sum of entries, in micro-units. `adapter`: full name, of a sum by adapter."""

    key: str | None
    adapter: str | None = None
    num_entries: int = 0
    by_state: dict[EarningState, int] = field(default_factory=dict)

    def add(self, num_entries: int, amount: int, state: EarningState) -> None:
        self.num_entries += num_entries
        self.by_state[state] = self.by_state.get(state, 0) + amount

    @property
    def amount(self) -> int:
        return sum(self.by_state.values())

    @property
    def pending(self) -> int:
        return self.by_state.get(EarningState.PENDING, 0)

    @property
    def final(self) -> int:
        return self.by_state.get(EarningState.FINAL, 0)

    @property
    def claimed(self) -> int:
        return self.by_state.get(EarningState.CLAIMED, 0)


@dataclass(frozen=True, slots=True)
class EarningsSummary:
    """`groups`: by key; the days newest first, everything else by amount. `rest`: as of `EarningsPage`."""

    groups: tuple[Totals, ...]
    rest: Position | None
    unverifiable: tuple[Unverifiable, ...]


class Earnings:
    """Entries of any account from any operator: they are public."""

    def __init__(self, db: Database, audits: BackgroundAudits, published: PublishedEntries) -> None:
        self._db, self._audits, self._published = db, audits, published

    def versions(self, adapter: str) -> frozenset[VersionId]:
        """Versions that `adapter` may mean, see `versions_named`. Errors: `ModelNotFound`."""
        with self._db.read() as tx:
            return frozenset(versions_named(tx.chain, adapter))

    def entries(self, query: EarningsQuery, start: Position | None, limit: int) -> EarningsPage:
        """One page of at most `limit` entries: by operator, newest batch first, in the batch's order. A page
        may have fewer entries, or none, before the last one.

        Errors: `StaleCursor`; `Unavailable` if data of a verified batch is missing.
        """
        walk, found, names = CreditWalk(self._db, self._published, query, start), [], Names()
        failed = self._follow(walk, query)
        for chunk in _chunks(walk, limit):
            with self._db.read() as tx:
                found += [
                    ListedEarning(credited.credit, credited.state, earning, names.of(tx, earning.version_id))
                    for credited, earning in self._expanded(tx, query, chunk, start, limit)
                ]
            if len(found) > limit:
                break
        self._keep(walk)
        rest = _position(found[limit - 1]) if len(found) > limit else walk.rest
        return EarningsPage(tuple(found[:limit]), rest, _unverifiable(failed | walk.unlisted))

    def summary(self, query: EarningsQuery, by: EarningsBy, start: Position | None) -> EarningsSummary:
        """Sums of the entries. With `rest`, those of the batches that were read; add the next ones to them.

        Errors: as `entries`.
        """
        walk, names = CreditWalk(self._db, self._published, query, start), Names()
        failed = self._follow(walk, query)
        credited = list(walk)
        groups: dict[str | None, Totals] = {}
        with self._db.read() as tx:
            for key, num_entries, amount, state in self._sums(tx, query, by, credited):
                if key not in groups:
                    adapter = names.of(tx, key) if by is EarningsBy.ADAPTER and key else None
                    groups[key] = Totals(key, adapter)
                groups[key].add(num_entries, amount, state)
        self._keep(walk)
        return EarningsSummary(
            _ordered(by, groups.values()), walk.rest, _unverifiable(failed | walk.unlisted)
        )

    def _follow(self, walk: CreditWalk, query: EarningsQuery) -> dict[Account, str]:
        """Audit batches that are not audited yet. Returns why those of some operators cannot be."""
        failed = self._audits.follow(walk.operators, is_urgent=query.operator is not None)
        return {operator: error.message for operator, error in failed.items()}

    def _keep(self, walk: CreditWalk) -> None:
        """Store what the walk read, if the account signed in here."""
        if not walk.found:
            return
        with self._db.read() as tx:
            is_known = bool(tx.earnings.known([walk.account]))
        if is_known:
            with self._db.begin() as tx:
                tx.earnings.add(walk.found)

    def _expanded(
        self,
        tx: UnitOfWork,
        query: EarningsQuery,
        chunk: Sequence[Credited],
        start: Position | None,
        limit: int,
    ) -> Iterator[tuple[Credited, Earning]]:
        """The wanted entries of these credits after `start`, in order; of a credit, more than `limit` may be
        left out beyond the first ones.
        """
        known = [credited for credited in chunk if credited.earnings is None]
        whole = [credited.batch.hash for credited in known if credited.credit.num_entries <= limit]
        stored = tx.earnings.entries(query.account, whole, query.wanted)
        for credited in known:
            batch = credited.batch.hash
            if batch not in whole:  # it may have many pages of entries
                after = _after(start, batch)
                stored |= tx.earnings.entries(query.account, [batch], query.wanted, after, limit + 1)
        for credited in chunk:
            batch = credited.batch.hash
            if credited.earnings is None:
                earnings = stored.get(batch, [])
            else:
                earnings = list(filter(query.wanted.admits, credited.earnings))
            yield from ((credited, one) for one in earnings if one.place > _after(start, batch))

    def _sums(
        self, tx: UnitOfWork, query: EarningsQuery, by: EarningsBy, found: Sequence[Credited]
    ) -> Iterator[tuple[str | None, int, int, EarningState]]:
        """Key, number, amount and state of sums of the wanted entries."""
        stored = {credited.batch.hash: credited for credited in found if credited.earnings is None}
        for credited in found:
            for earning in filter(query.wanted.admits, credited.earnings or ()):
                yield _key(by, credited, _parts(by, earning)), 1, earning.amount, credited.state
        if query.wanted.is_open and by in _OF_BATCHES:
            for credited in stored.values():
                credit = credited.credit
                yield _key(by, credited, ()), credit.num_entries, credit.amount, credited.state
            return
        for one in tx.earnings.sums(query.account, list(stored), query.wanted, by):
            credited = stored[one.batch_hash]
            yield _key(by, credited, one.key), one.num_entries, one.amount, credited.state


class Names:
    """Full names of adapter versions, each looked up once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, tx: UnitOfWork, version: str) -> str:
        if version not in self._known:
            id_ = VersionId(Hash32(version))
            record = tx.chain.version(id_)
            self._known[version] = version if record is None else record.full_name(id_)
        return self._known[version]


_OF_BATCHES = {EarningsBy.DAY, EarningsBy.OPERATOR}


def _parts(by: EarningsBy, earning: Earning) -> tuple[str | int | None, ...]:
    """The key of one entry, as `EarningSum.key`."""
    if by is EarningsBy.ADAPTER:
        return (earning.version_id,)
    return (earning.datanet, earning.contribution)


def _key(by: EarningsBy, credited: Credited, parts: tuple[str | int | None, ...]) -> str | None:
    if by is EarningsBy.DAY:
        return credited.day.isoformat()
    if by is EarningsBy.OPERATOR:
        return credited.batch.operator
    return None if parts[0] is None else "/".join(map(str, parts))


def _ordered(by: EarningsBy, groups: Iterable[Totals]) -> tuple[Totals, ...]:
    if by is EarningsBy.DAY:
        return tuple(sorted(groups, key=lambda one: one.key or "", reverse=True))
    return tuple(sorted(groups, key=lambda one: one.amount, reverse=True))


def _unverifiable(reasons: Mapping[Account, str]) -> tuple[Unverifiable, ...]:
    return tuple(Unverifiable(operator, reason) for operator, reason in reasons.items())


def _after(start: Position | None, batch: Hash32) -> int:
    """The place in the batch after which a page's entries begin."""
    return start.place if start is not None and start.batch_hash == batch else -1


def _position(last: ListedEarning) -> Position:
    credit = last.credit
    return Position(credit.operator, credit.batch_hash, last.earning.place, credit.balance)


def _chunks(walk: CreditWalk, limit: int) -> Iterator[list[Credited]]:
    """Credits in groups that have more than `limit` entries, or the most batches of a group."""
    chunk: list[Credited] = []
    num_entries = 0
    for credited in walk:
        chunk.append(credited)
        num_entries += credited.credit.num_entries
        if num_entries > limit or len(chunk) == MAX_BATCHES:
            yield chunk
            chunk, num_entries = [], 0
    yield chunk
