"""Operators, by the chain and by their own word: where they are, what they serve, at which price.

Their own word is a stranger's: bounded, typed, asked for at most every half minute, and shown as what it is.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import msgspec

from backend.ports.outbound import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account, Hash32
    from backend.domain.registries import Operator
    from backend.ports.outbound import OutboundHttp
    from backend.services.market.catalogue import Catalogue

CARD_PATH = "/v1/operator"
MAX_CARD_BYTES = 1 << 20
ASK_SECONDS, KEPT_SECONDS = 3.0, 30.0
MAX_ASKED, ASKED_AT_ONCE = 100, 8
REMEMBERED = 100
"""Answers, or their absence, from which an operator's uptime is told."""

_Hash = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{64}$")]
_Price = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class BaseOffer(msgspec.Struct, frozen=True):
    """A base model that is served, what the bare one costs, the least that its adapters must cost to be
    answered for, and what training on it costs: token units per million tokens.
    """

    digest: _Hash
    name: Annotated[str, msgspec.Meta(max_length=100)]
    prompt_price: _Price | None = None
    completion_price: _Price | None = None
    min_prompt_price: _Price | None = None
    min_completion_price: _Price | None = None
    training_price: _Price | None = None


class Card(msgspec.Struct, frozen=True):
    """What an operator says of itself at `CARD_PATH`."""

    account: Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{40}$")]
    bases: Annotated[list[BaseOffer], msgspec.Meta(max_length=64)]
    active_adapters: Annotated[list[_Hash], msgspec.Meta(max_length=10_000)]


_CARD = msgspec.json.Decoder(Card)


@dataclass(slots=True)
class Standing:
    """How an operator answered us lately. `card` is None where the last time it did not."""

    card: Card | None = None
    latency_ms: int | None = None
    asked_at: float = float("-inf")
    answered: deque[bool] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    @property
    def uptime_ppm(self) -> int | None:
        return sum(self.answered) * 1_000_000 // len(self.answered) if self.answered else None


class Operators:
    def __init__(
        self,
        db: Database,
        outbound: OutboundHttp,
        catalogue: Catalogue,
        own: Account,
        training_price: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._outbound, self._catalogue, self._own, self._clock = outbound, catalogue, own, clock
        self._training_price = training_price
        self._standings: dict[tuple[Account, str], Standing] = {}
        self._asking: dict[tuple[Account, str], Future[None]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(ASKED_AT_ONCE, "ask-operator")

    def card(self, active: Collection[Hash32]) -> Card:
        """Our own. `active`: digests of the adapters that answer without being loaded first."""
        base = next((m for m in self._catalogue.models() if m.is_base), None)
        floor = self._catalogue.floor()
        offer = BaseOffer(
            self._catalogue.base_digest,
            self._catalogue.base_name,
            base.record.prompt_price if base else None,
            base.record.completion_price if base else None,
            floor.prompt,
            floor.completion,
            self._training_price,
        )
        return Card(self._own, [offer], sorted(active))

    def all(self, active: Collection[Hash32]) -> list[tuple[Operator, Standing]]:
        """All that are registered, and how they answered lately; waits for those never asked before."""
        with self._db.read() as tx:
            known = tx.chain.operators()
        self._ask_again([o for o in known if o.endpoint and o.account != self._own])
        own = Standing(self.card(active))
        with self._lock:
            return [
                (o, own if o.account == self._own else self._standings.get(_key(o), Standing()))
                for o in known
            ]

    def _ask_again(self, operators: list[Operator]) -> None:
        now = self._clock()
        with self._lock:
            keys = {_key(o) for o in operators}
            self._standings = {key: found for key, found in self._standings.items() if key in keys}
            due = [
                o
                for o in operators
                if _key(o) not in self._asking
                and self._standings.setdefault(_key(o), Standing()).asked_at + KEPT_SECONDS <= now
            ]
            for operator in sorted(due, key=lambda o: self._standings[_key(o)].asked_at)[:MAX_ASKED]:
                self._asking[_key(operator)] = self._pool.submit(self._ask, operator)
            first = [
                f for key, f in self._asking.items() if not self._standings.get(key, Standing()).answered
            ]
        wait(first, timeout=ASK_SECONDS)

    def _ask(self, operator: Operator) -> None:
        started_at = self._clock()
        card = self._read_card(operator)
        ended_at = self._clock()
        with self._lock:
            self._asking.pop(_key(operator), None)
            found = self._standings.setdefault(_key(operator), Standing())
            found.card = card
            found.latency_ms = None if card is None else round((ended_at - started_at) * 1000)
            found.asked_at = ended_at
            found.answered.append(card is not None)

    def _read_card(self, operator: Operator) -> Card | None:
        url = operator.endpoint.rstrip("/") + CARD_PATH
        try:
            pieces = self._outbound.get(
                url, accept="application/json", max_bytes=MAX_CARD_BYTES, seconds=ASK_SECONDS
            )
            card = _CARD.decode(b"".join(pieces))
        except (Unreachable, msgspec.DecodeError, RecursionError):
            return None
        return card if card.account == operator.account else None


def _key(operator: Operator) -> tuple[Account, str]:
    """Who moves starts anew."""
    return operator.account, operator.endpoint
