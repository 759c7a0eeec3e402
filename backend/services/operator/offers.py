"""Offers of our own operator, each a version record: answers of the bare base model, and training."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backend.domain.denials import FloorPrice
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.hashing import record_argument, version_id
from backend.domain.ids import ZERO_HASH
from backend.domain.money import price_in_dollars, prices_in_dollars
from backend.domain.receipt import TRAINING_NAME, own_record
from backend.services.transactions.operator_transactions import Call, OperatorTransactions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account, Hash32
    from backend.domain.receipt import VersionRecord
    from backend.domain.transactions import ChainTransaction
    from backend.ports.chain import Chain

REGISTRY = "AdapterRegistry"
MAX_NAME = 32
MAX_PRICE = (1 << 63) - 1
"""Maximum price in an operator's card."""
FLOOR_DIVISOR = 5
"""Of the base model's prices to the first floor price, which an adapter at these prices then reaches by the
shares that the terminal and the pages propose.
"""


def base_record(operator: Account, base_model: Hash32, name: str, prices: tuple[int, int]) -> VersionRecord:
    """Version record of the bare base model. `name` is normalised and truncated to a valid record name.
    `prices`: token units per million prompt tokens and per million completion tokens.

    Errors: `InvalidInput`.
    """
    if not all(0 <= price <= MAX_PRICE for price in prices):
        raise InvalidInput(f"A price must be from 0 to {price_in_dollars(MAX_PRICE)}.", param="prices")
    normalised = re.sub("[^a-z0-9-]+", "-", name.lower())[:MAX_NAME]
    if normalised == TRAINING_NAME:
        message = (
            f"a base model cannot be named {name!r}: that name prices training; rename its folder or file"
        )
        raise InvalidInput(message, param="base_model")
    return own_record(operator, base_model, normalised, *prices)


class Offers:
    def __init__(
        self,
        db: Database,
        chain: Chain,
        own: Account,
    ) -> None:
        self._db, self._chain, self._own = db, chain, own
        self._transactions = OperatorTransactions(db, chain, own)

    def check(self, record: VersionRecord) -> None:
        """Raise `Conflict` if answers would not be sold by this record, whether it is registered or not."""
        with self._db.read() as tx:
            floor = tx.denials.floor()
            known = [one.record for one in tx.chain.versions(creator=self._own) if not one.is_deprecated]
        if not floor.allows(record, self._own):
            lowest = prices_in_dollars(floor.prompt, floor.completion)
            raise Conflict(
                f"The floor price here is {lowest}: raise the price or change the floor (`loraledger policy "
                "floor --prices`).",
                param="prices",
            )
        state = self._chain.call(REGISTRY, "versionOf", version_id(record))
        is_past = record in [one for one in known if _is_of_base(one, record)][:-1]
        if state["isDeprecated"] or is_past:
            raise Conflict(
                "These prices were used before and replaced: a record can be registered once, and the newest "
                "one that is not deprecated counts. Use other prices; a difference of "
                f"{price_in_dollars(1)} suffices.",
                param="prices",
            )

    def set_first_floor(self, bases: Sequence[VersionRecord]) -> FloorPrice:
        """Set the floor price if it was never set: a fraction of what the cheapest of these records of base
        models earn. Returns the floor price.
        """
        earned = [record.operator_prices(self._own) for record in bases]
        first = FloorPrice(*(max(1, min(prices) // FLOOR_DIVISOR) for prices in zip(*earned, strict=True)))
        with self._db.begin() as tx:
            if not tx.denials.is_floor_set():
                tx.denials.set_floor(first)
            return tx.denials.floor()

    def register(self, records: Sequence[VersionRecord]) -> list[ChainTransaction]:
        """Register the records that are not registered yet.

        Errors: `Conflict` without coin for gas; `Reverted` if the registry would reject one.
        """
        calls = [
            Call(REGISTRY, "register", (record_argument(record),), "offer", is_simulated=True)
            for record in records
            if not self._chain.call(REGISTRY, "versionOf", version_id(record))["registeredAt"]
        ]
        return self._transactions.queue(calls)


def _is_of_base(one: VersionRecord, other: VersionRecord) -> bool:
    is_bare = one.adapter_digest == ZERO_HASH and not one.is_training
    return is_bare and one.base_model == other.base_model
