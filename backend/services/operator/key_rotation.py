"""Replaces receipt keys that leaked.

    key file -> [enqueue addReceiptKey and retireReceiptKey] -> indexed -> receipts signed again -> settled

Only the bracketed step changes the database, in one unit of work. Before it, nothing has happened but that an
unused key file may exist. After it, the outbox sends the transactions and every process follows the chain:
serving signs with the next key (`receipt_keys`); settlement commits nothing until the retirement is indexed,
and then signs the unsettled receipts again (`services/settle/retired_keys`). The command may therefore be
repeated at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.chain import Reverted
from backend.domain.errors import Conflict, InvalidInput, Unavailable
from backend.domain.texts import instant
from backend.services.operator.receipt_keys import NoReceiptKey
from backend.services.transactions.operator_transactions import Call, OperatorTransactions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account
    from backend.domain.transactions import ChainTransaction
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Signer
    from backend.services.operator.receipt_keys import ReceiptKeys

REGISTRY, SETTLEMENT = "OperatorRegistry", "Settlement"
ADD, RETIRE = "addReceiptKey", "retireReceiptKey"


@dataclass(frozen=True, slots=True)
class Rotation:
    """State of a replacement of receipt keys."""

    retiring: tuple[Account, ...]
    """Keys that are retired, or are to be."""
    next_key: Account
    """The key that signs receipts afterwards."""
    transactions: tuple[ChainTransaction, ...]
    """Transactions of this call: those that were queued or sent for it. Empty if all were mined before."""
    num_unsigned: int
    """Unsettled receipts that settlement still has to sign again."""
    others: tuple[Account, ...]
    """Further registered keys that are not retired: what they signed still counts, also if their files are
    lost.
    """
    is_indexed: bool
    """Whether every process of this installation signs with `next_key` now."""

    @property
    def is_done(self) -> bool:
        return self.is_indexed and not self.num_unsigned


class KeyRotation:
    """`domain`: EIP-712 domain of the registry, in which the next key consents to its registration."""

    def __init__(
        self, db: Database, chain: Chain, own: Account, keys: ReceiptKeys, domain: TypedDomain
    ) -> None:
        self._db, self._chain, self._own, self._keys, self._domain = db, chain, own, keys, domain
        self._transactions = OperatorTransactions(db, chain, own)

    def rotate(self, retiring: Sequence[Account]) -> Rotation:
        """Retire these keys, and register a next key if none is left. Repeated, it does what is missing.

        Errors: `InvalidInput` for a key of another operator; `Conflict` while a commit is pending, or if keys
        were retired recently; those of `OperatorTransactions.queue`.
        """
        self._check_own(retiring)
        next_key = self._next_key(retiring)
        calls = [*self._registration(next_key), *self._retirements(retiring)]
        queued = self._queue(calls) if calls else []
        return self._rotation(retiring, next_key.account, queued)

    def status(self, rotation: Rotation) -> Rotation:
        """The present state of a rotation."""
        return self._rotation(rotation.retiring, rotation.next_key, rotation.transactions)

    def _check_own(self, keys: Sequence[Account]) -> None:
        for key in keys:
            if (owner := self._chain.call(REGISTRY, "operatorOfKey", key)) != self._own:
                raise InvalidInput(f"{key} is not a receipt key of {self._own}, but of {owner}.", param="key")

    def _next_key(self, retiring: Sequence[Account]) -> Signer:
        """The key in use if it stays, else another registered key, else one whose registration is pending,
        else a new one.
        """
        with self._db.read() as tx:
            if (used := self._in_use(tx.chain)) is not None and used.account not in retiring:
                return used
            if (registered := self._keys.newest(tx.chain, retiring)) is not None:
                return registered
            pending = [one.args[0] for one in tx.transactions.not_failed(self._own, REGISTRY, ADD)]
        store = self._keys.store()
        for key in reversed(pending):
            is_free = key not in retiring and not self._chain.call(REGISTRY, "retiredAt", key)
            if is_free and (signer := store.signer(key)) is not None:
                return signer
        created = store.create()
        if (signer := store.signer(created)) is None:
            raise Unavailable(f"The key {created} that was just created cannot be opened again.")
        return signer

    def _in_use(self, view: ChainView) -> Signer | None:
        try:
            return self._keys.in_use(view)
        except NoReceiptKey:
            return None

    def _registration(self, key: Signer) -> list[Call]:
        if self._chain.call(REGISTRY, "operatorOfKey", key.account) == self._own:
            return []
        consent = key.sign(self._domain.receipt_key_digest(self._own))
        return [Call(REGISTRY, ADD, (key.account, consent), f"key:{key.account}", is_simulated=True)]

    def _retirements(self, keys: Sequence[Account]) -> list[Call]:
        missing = [key for key in keys if not self._chain.call(REGISTRY, "retiredAt", key)]
        return [Call(REGISTRY, RETIRE, (key,), "retire", is_simulated=True) for key in missing]

    def _queue(self, calls: Sequence[Call]) -> list[ChainTransaction]:
        try:
            return self._transactions.queue(calls, self._check_no_commit)
        except Reverted as refused:
            if refused.error != "KeyRetirementCoolingDown":
                raise
            until = int(refused.args_by_name["until"])
            raise Conflict(
                f"This operator retired keys recently. It can retire others from {instant(until)} on. Until "
                "then commit nothing that a leaked key could convict: stop `loraledger settle`.",
                details={"until": until},
            ) from None

    def _check_no_commit(self, tx: UnitOfWork) -> None:
        """A batch that is committed after the retirement must not contain signatures of a retired key."""
        if pending := tx.transactions.to_be_mined(self._own, SETTLEMENT, "commit"):
            raise Conflict(
                f"Transaction {pending[0].id} commits a batch that these keys may have signed: repeat this "
                "once it is mined, and check that `loraledger send` runs.",
                details={"transaction_id": pending[0].id},
            )

    def _rotation(
        self, retiring: Sequence[Account], next_key: Account, sent: Sequence[ChainTransaction]
    ) -> Rotation:
        with self._db.read() as tx:
            known = tx.chain.operator(self._own)
            retired = {} if known is None else known.retired
            is_indexed = known is not None and next_key in known.keys and all(k in retired for k in retiring)
            unsigned = () if known is None else tx.receipts.signed_by_others(self._own, known.active_keys)
            active = () if known is None else known.active_keys
        others = tuple(key for key in active if key not in retiring and key != next_key)
        return Rotation(tuple(retiring), next_key, tuple(sent), len(unsigned), others, is_indexed)
