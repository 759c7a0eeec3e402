"""Directory of operators: registrations on the chain, and the card that each operator publishes.

Cards are untrusted: they are limited in size, validated, and requested at most every half minute.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import msgspec

from backend.domain.errors import InvalidInput, NotFound
from backend.domain.money import PRICE
from backend.ports.engine import active_adapters
from backend.ports.outbound import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.catalogue import BaseModel
    from backend.domain.denials import FloorPrice
    from backend.domain.ids import Account, Hash32
    from backend.domain.registries import Operator
    from backend.ports.engine import EngineState
    from backend.ports.outbound import OutboundHttp
    from backend.services.market.catalogue import Catalogue

CARD_PATH = "/v1/operator"
MAX_CARD_BYTES = 1 << 20
REQUEST_SECONDS, REFRESH_SECONDS = 3.0, 30.0
MAX_CONCURRENT = 8
NUM_OUTCOMES = 100
"""Latest requests from which an operator's uptime is computed."""

_Hash = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{64}$")]


class CardPrice(int):
    """Token units per million tokens. In JSON it is a price as everywhere in the API."""


class BaseOffer(msgspec.Struct, frozen=True):
    """A served base model with its prices: of the model without an adapter, the floor for what the operator
    earns of adapters' prices, and of training.
    """

    digest: _Hash
    name: Annotated[str, msgspec.Meta(max_length=100)]
    prompt_price: CardPrice | None = None
    completion_price: CardPrice | None = None
    min_prompt_price: CardPrice | None = None
    min_completion_price: CardPrice | None = None
    training_price: CardPrice | None = None
    """None: adapters of it are not trained."""
    not_served: Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=64)] = []
    """Kinds of adapters and parts of requests that its engines refuse."""
    weight_format: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """Of its weights in the operator's engines, such as `bf16` or `int8`; None if it is not known."""


class CardAgreement(msgspec.Struct, frozen=True):
    """`LiveAgreement` of all versions together, as the operator states it."""

    mean: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None
    num_answers: Annotated[int, msgspec.Meta(ge=0)]
    num_missing: Annotated[int, msgspec.Meta(ge=0)]


class Card(msgspec.Struct, frozen=True):
    """An operator's description of itself, published at `CARD_PATH`."""

    account: Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{40}$")]
    bases: Annotated[list[BaseOffer], msgspec.Meta(max_length=64)]
    active_adapters: Annotated[list[_Hash], msgspec.Meta(max_length=10_000)]
    live_agreement: CardAgreement | None = None
    """None if no answer was sampled."""


def _read_price(_kind: type, value: object) -> CardPrice:
    return CardPrice(PRICE.read(value))


_CARD = msgspec.json.Decoder(Card, dec_hook=_read_price)


def parse_operator_card(text: bytes) -> Card:
    """Parse the card of another operator. Errors: `InvalidInput`."""
    try:
        return _CARD.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not the card of an operator: {error}", param="card") from error


@dataclass(slots=True)
class Availability:
    """An operator's latest card and how it answered lately. `card` is None if the last request failed.
    `request`: the one that is under way.
    """

    endpoint: str = ""
    card: Card | None = None
    latency_ms: int | None = None
    requested_at: float = float("-inf")
    outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=NUM_OUTCOMES))
    request: Future[None] | None = None

    @property
    def uptime_ppm(self) -> int | None:
        return sum(self.outcomes) * 1_000_000 // len(self.outcomes) if self.outcomes else None


class Operators:
    def __init__(
        self,
        db: Database,
        outbound: OutboundHttp,
        catalogue: Catalogue,
        own: Account,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._outbound, self._catalogue, self._own, self._clock = outbound, catalogue, own, clock
        self._availability: dict[Account, Availability] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT, "operator-cards")

    def card(self, engines: Mapping[Hash32, EngineState]) -> Card:
        """Our own card. `engines`: by base model."""
        floor = self._catalogue.floor()
        offers = [self._offer(base, engines.get(base.digest), floor) for base in self._catalogue.bases]
        return Card(self._own, offers, sorted(active_adapters(engines)), self._agreement())

    def _offer(self, base: BaseModel, engine: EngineState | None, floor: FloorPrice) -> BaseOffer:
        sold = self._catalogue.base_model(base)
        return BaseOffer(
            base.digest,
            base.name,
            CardPrice(sold.record.prompt_price) if sold else None,
            CardPrice(sold.record.completion_price) if sold else None,
            CardPrice(floor.prompt),
            CardPrice(floor.completion),
            None if base.training_price is None else CardPrice(base.training_price),
            list(base.not_served),
            engine.weight_format if engine else None,
        )

    def _agreement(self) -> CardAgreement | None:
        with self._db.read() as tx:
            live = tx.live_agreements.total()
        return CardAgreement(live.mean, live.num_measured, live.num_missing) if live.num_sampled else None

    def get(self, operator: Account, engines: Mapping[Hash32, EngineState]) -> tuple[Operator, Availability]:
        """A registered operator, as from `registered`. Errors: `NotFound`."""
        with self._db.read() as tx:
            found = tx.chain.operator(operator)
        if found is None:
            raise NotFound(f"No operator {operator} is registered on the chain.", param="operator")
        return self._with_availability([found], engines)[0]

    def registered(
        self, engines: Mapping[Hash32, EngineState], after: str | None, limit: int
    ) -> list[tuple[Operator, Availability]]:
        """Up to `limit` registered operators, oldest first, with their availability: those after account
        `after`. Waits for those that are requested for the first time.

        Errors: `InvalidInput` if `after` is no operator.
        """
        with self._db.read() as tx:
            found = tx.chain.operators_after(after, limit)
        return self._with_availability(found, engines)

    def _with_availability(
        self, operators: Sequence[Operator], engines: Mapping[Hash32, EngineState]
    ) -> list[tuple[Operator, Availability]]:
        others = [one for one in operators if one.account != self._own]
        wait(self._refresh([one for one in others if one.endpoint]), timeout=REQUEST_SECONDS)
        with self._lock:
            known = [(one.account, self._of(one)) for one in others]
            found = {account: replace(one, outcomes=one.outcomes.copy()) for account, one in known}
        if len(others) < len(operators):
            found[self._own] = Availability(card=self.card(engines))
        return [(one, found[one.account]) for one in operators]

    def _of(self, operator: Operator) -> Availability:
        """What is known of the operator at its endpoint: at a new one, nothing yet."""
        known = self._availability.get(operator.account)
        if known is None or known.endpoint != operator.endpoint:
            known = self._availability[operator.account] = Availability(operator.endpoint)
        return known

    def _refresh(self, operators: Sequence[Operator]) -> Sequence[Future[None]]:
        """Request the cards that are due. Returns the requests of operators that were never asked before."""
        now = self._clock()
        with self._lock:
            for operator in operators:
                known = self._of(operator)
                if known.request is None and known.requested_at + REFRESH_SECONDS <= now:
                    known.request = self._pool.submit(self._request, operator, known)
            asked = [self._of(operator) for operator in operators]
            return [one.request for one in asked if one.request is not None and not one.outcomes]

    def _request(self, operator: Operator, found: Availability) -> None:
        started_at = self._clock()
        card = self._read_card(operator)
        ended_at = self._clock()
        with self._lock:
            found.request = None
            found.card = card
            found.latency_ms = None if card is None else round((ended_at - started_at) * 1000)
            found.requested_at = ended_at
            found.outcomes.append(card is not None)

    def _read_card(self, operator: Operator) -> Card | None:
        url = operator.endpoint.rstrip("/") + CARD_PATH
        try:
            pieces = self._outbound.get(
                url, accept="application/json", max_bytes=MAX_CARD_BYTES, seconds=REQUEST_SECONDS
            )
            card = parse_operator_card(b"".join(pieces))
        except (Unreachable, InvalidInput):
            return None
        return card if card.account == operator.account else None
