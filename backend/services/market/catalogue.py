"""Versions that this installation can serve, and the resolution of `model` names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.catalogue import ModelQuery, Served
from backend.domain.errors import InvalidInput, NotFound, Unavailable
from backend.domain.ids import ZERO_HASH, Account, Hash32, VersionId
from backend.domain.money import PRICE, prices_in_dollars
from backend.domain.receipt import NAME_PATTERN
from backend.services.contribute.licences import is_met, parse_licence
from backend.services.market.denials import check_answerable, without_denied_cards
from backend.services.market.descriptions import usage_since

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.catalogue import BaseModel, Description, ListedVersion, Sort
    from backend.domain.denials import FloorPrice
    from backend.domain.earnings import ContributionEarning
    from backend.domain.live_agreement import LiveAgreement
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import RegisteredVersion
    from backend.ports.chain_view import ChainView

MAX_WORDS = 10
_HASH = re.compile(r"(?:0x)?([0-9a-f]{64})")
_NAMED = re.compile(rf"(0x[0-9a-f]{{40}})/({NAME_PATTERN})(?:@(?:0x)?([0-9a-f]{{4,64}}))?")


class ModelNotFound(NotFound):
    """No version of this name is served here."""


class UnknownBase(InvalidInput):
    """A search names a base model that this operator does not serve."""


class PriceBelowFloor(ModelNotFound):
    """What this operator would earn of the version's prices is below its floor price. `details` has both."""


@dataclass(frozen=True, slots=True)
class Model:
    """A version and its name for clients: `owner/name@version`, or the base model's name."""

    id: VersionId
    record: VersionRecord
    name: str
    is_deprecated: bool
    block_number: int
    """Block of the registration."""

    @property
    def is_base(self) -> bool:
        return self.record.adapter_digest == ZERO_HASH

    def matches(self, name: str) -> bool:
        """Whether `Catalogue.resolve` may resolve this name to this version."""
        if match := _HASH.fullmatch(name):
            return "0x" + match[1] in (self.id, self.record.adapter_digest)
        if match := _NAMED.fullmatch(name):
            is_named = (match[1], match[2]) == (self.record.creator, self.record.name)
            return is_named and self.id[2:].startswith(match[3] or "")
        return name == self.name


@dataclass(frozen=True, slots=True)
class ListedModel:
    """`registered_at`: unix seconds of the registration's block, 0 if unknown. `num_answers`: this operator's
    in `USAGE_DAYS`. `contributors_earned`: micro-units that batches of all operators verified here credit to
    `num_paid` contributors through this version, pending batches included. `live_agreement`: None until a
    served answer was sampled.
    """

    model: Model
    registered_at: int
    description: Description
    num_answers: int
    contributors_earned: int
    num_paid: int
    live_agreement: LiveAgreement | None


@dataclass(frozen=True, slots=True)
class Search:
    """What a client looks for; see `ModelQuery`.

    `text`: words, each of which occurs. `licence`: SPDX expression; models whose licences can be met with
    those that it names. `base`: name or digest of the base model. `tag`: a tag of the card.
    """

    text: str = ""
    licence: str | None = None
    max_price: int | None = None
    is_active: bool | None = None
    base: str | None = None
    tag: str | None = None
    sort: Sort | None = None


EVERYTHING = Search()


class Catalogue:
    def __init__(self, db: Database, bases: Sequence[BaseModel], clock: Callable[[], datetime]) -> None:
        """`bases`: at least one, with different names and digests."""
        self._db = db
        self.bases = tuple(bases)
        self._by_digest = {base.digest: base for base in bases}
        self._clock = clock

    def base_name(self, digest: Hash32 | None) -> str:
        """Name of a base model: of the first one for None, the digest of one that is not served any more."""
        base = self.bases[0] if digest is None else self._by_digest.get(digest)
        return str(digest) if base is None else base.name

    def find_base(self, name: str) -> BaseModel | None:
        """The base model of this name or digest, if it is served."""
        return next((b for b in self.bases if name in (b.name, b.digest, b.digest.removeprefix("0x"))), None)

    def require_base(self, name: str | None, param: str = "model") -> BaseModel:
        """As `find_base`; None is the only one. Errors: `UnknownBase`."""
        if name is None and len(self.bases) == 1:
            return self.bases[0]
        base = None if name is None else self.find_base(name)
        if base is None:
            fault = "Name the base model" if name is None else f"The base model {name!r} is not served here"
            raise UnknownBase(f"{fault}: this operator serves {self._served_text()}.", param=param)
        return base

    def floor(self) -> FloorPrice:
        with self._db.read() as tx:
            return tx.denials.floor()

    def base_model(self, base: BaseModel) -> Model | None:
        """The base model without an adapter, if a record prices it."""
        with self._db.read() as tx:
            found = self._newest_base(tx, base)
        return None if found is None else self._model(found)

    def find(
        self,
        search: Search = EVERYTHING,
        active_adapters: Collection[Hash32] = (),
        after: VersionId | None = None,
        limit: int | None = None,
    ) -> list[ListedModel]:
        """Models that can be served now and that the search finds: the newest version of each name, and the
        base models.

        `active_adapters`: digests of those that an engine has loaded. `after`: last model of the page
        before. Errors: `UnknownBase`, `UnknownLicence`; `InvalidInput` for too many words, and if `after` is
        not among those found.
        """
        bases = self.bases if search.base is None else (self.require_base(search.base, "base"),)
        licence = None if search.licence is None else parse_licence(search.licence)
        with self._db.read() as tx:
            served = Served(bases, tx.denials.floor(), active_adapters)
            licences = None if licence is None else [x for x in tx.catalogue.licences() if is_met(x, licence)]
            words = _words(search.text)
            query = ModelQuery(words, licences, search.max_price, search.is_active, search.tag, search.sort)
            found = tx.catalogue.find(served, query, usage_since(self._clock()), after, limit)
            return self._listed(tx, found)

    def describe(self, model: Model) -> ListedModel:
        """A resolved model with what is known of it. Errors: `ModelNotFound` after a reorganisation."""
        with self._db.read() as tx:
            found = tx.catalogue.get(model.id, usage_since(self._clock()))
            if found is None:
                raise ModelNotFound(f"The model {model.name!r} does not exist here any more.", param="model")
            return self._listed(tx, [found])[0]

    def resolve(self, model: str, payer: Account | None = None) -> Model:
        """Resolve `owner/name`, `owner/name@version prefix`, version id, adapter digest, or a base model's
        name.

        Raises ModelNotFound, also for prices below the floor; ModelDenied; PayerDenied.
        """
        with self._db.read() as tx:
            found = self._get(tx, model)
            self._check_servable(found, model, tx.denials.floor())
            check_answerable(tx, found.record, payer)
        return self._model(found)

    def record(self, model: str) -> VersionRecord:
        """Record of a model, whether it is served or not. Raises ModelNotFound."""
        with self._db.read() as tx:
            return self._get(tx, model).record

    def _served_text(self) -> str:
        return ", ".join(f"{base.name!r} ({base.digest})" for base in self.bases)

    def _listed(self, tx: UnitOfWork, found: Sequence[ListedVersion]) -> list[ListedModel]:
        earned: dict[VersionId, list[ContributionEarning]] = {}
        versions = [listed.version.id for listed in found]
        for one in tx.contribution_totals.of_versions(versions):
            earned.setdefault(one.version_id, []).append(one)
        live = tx.live_agreements.of(versions)
        found = without_denied_cards(tx, found)
        return [
            ListedModel(
                model=self._model(listed.version),
                registered_at=listed.registered_at,
                description=listed.description,
                num_answers=listed.num_answers,
                contributors_earned=sum(one.amount for one in earned.get(listed.version.id, ())),
                num_paid=len({one.account for one in earned.get(listed.version.id, ())}),
                live_agreement=live.get(listed.version.id),
            )
            for listed in found
        ]

    def _get(self, tx: UnitOfWork, model: str) -> RegisteredVersion:
        found = self._find(tx, model)
        if found is None:
            raise ModelNotFound(f"The model {model!r} does not exist here.", param="model")
        return found

    def _find(self, tx: UnitOfWork, model: str) -> RegisteredVersion | None:
        base = next((one for one in self.bases if one.name == model), None)
        return _registered(tx.chain, model) if base is None else self._newest_base(tx, base)

    def _newest_base(self, tx: UnitOfWork, base: BaseModel) -> RegisteredVersion | None:
        floor, versions = tx.denials.floor(), tx.chain.versions(creator=base.creator)
        own = [v for v in versions if _is_bare(v) and v.record.base_model == base.digest]
        return _newest([v for v in own if self._is_servable(v, floor)])

    def _is_servable(self, version: RegisteredVersion, floor: FloorPrice) -> bool:
        record = version.record
        return self._is_known(record) and floor.allows(record, self._by_digest[record.base_model].creator)

    def _is_known(self, record: VersionRecord) -> bool:
        """Whether the record is an adapter of a served base model, or the configured creator's record of the
        bare base model. Others may register that one at any price.
        """
        base = self._by_digest.get(record.base_model)
        if base is None or record.is_training:
            return False
        return record.adapter_digest != ZERO_HASH or record.creator == base.creator

    def _check_servable(self, version: RegisteredVersion, model: str, floor: FloorPrice) -> None:
        record = version.record
        base = self._by_digest.get(record.base_model)
        if base is None:
            raise ModelNotFound(
                f"The model {model!r} is for the base model {record.base_model}; "
                f"this operator serves {self._served_text()}.",
                param="model",
            )
        if record.is_training:
            raise ModelNotFound(f"The record {model!r} prices training and serves no answers.", param="model")
        if not self._is_known(record):
            raise ModelNotFound(
                f"The model {model!r} is the base model without an adapter; here it is {base.name!r}.",
                param="model",
            )
        if not floor.allows(record, base.creator):
            raise _below_floor(record, model, base.creator, floor)

    def _model(self, version: RegisteredVersion) -> Model:
        record = version.record
        is_base = _is_bare(version)
        name = self.base_name(record.base_model) if is_base else record.full_name(version.id)
        return Model(version.id, record, name, version.is_deprecated, version.block_number)


def _below_floor(record: VersionRecord, model: str, operator: Account, floor: FloorPrice) -> PriceBelowFloor:
    earned = record.operator_prices(operator)
    rest = "" if record.creator == operator else f", {record.operator_ppm:,} ppm of the model's prices"
    return PriceBelowFloor(
        f"This operator would earn {prices_in_dollars(*earned)} with the model {model!r}{rest}; it serves "
        f"none for less than {prices_in_dollars(floor.prompt, floor.completion)}.",
        param="model",
        details={
            "operator_prompt_price": PRICE.render(earned[0]),
            "operator_completion_price": PRICE.render(earned[1]),
            "floor_prompt_price": PRICE.render(floor.prompt),
            "floor_completion_price": PRICE.render(floor.completion),
        },
    )


def adapter_record(db: Database, adapter: str) -> VersionRecord:
    """Record of a registered adapter of any base model: by `owner/name`, `owner/name@version prefix`, version
    id or adapter digest. Raises ModelNotFound, and Unavailable before the chain is indexed.
    """
    with db.read() as tx:
        cursor, found = tx.chain.cursor(), _registered(tx.chain, adapter)
    if cursor is None:
        raise Unavailable(
            "No block of the chain is indexed in this home yet: run `loraledger index` and try again once it "
            "has caught up."
        )
    if found is None or _is_bare(found):
        raise ModelNotFound(
            f"No adapter {adapter!r} is registered up to block {cursor.number}, the last one indexed in this "
            "home; `loraledger index` continues.",
            param="adapter",
        )
    return found.record


def versions_named(chain: ChainView, adapter: str) -> list[VersionId]:
    """All registered versions that a name may mean: every version of `owner/name`, those of
    `owner/name@version prefix`, the one of a version id, or those of an adapter digest. Raises ModelNotFound.
    """
    found: list[VersionId] = []
    if match := _HASH.fullmatch(adapter):
        wanted = Hash32("0x" + match[1])
        found = [v.id for v in chain.versions(adapter_digest=wanted)]
        if chain.version(VersionId(wanted)) is not None:
            found.append(VersionId(wanted))
    elif match := _NAMED.fullmatch(adapter):
        named = chain.versions(creator=Account(match[1]), name=match[2])
        found = [v.id for v in named if v.id[2:].startswith(match[3] or "")]
    if not found:
        raise ModelNotFound(
            f"No adapter {adapter!r} is registered: name `owner/name`, `owner/name@version` or a version id.",
            param="adapter",
        )
    return found


def _words(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(text.casefold().split()))
    if len(words) > MAX_WORDS:
        raise InvalidInput(f"A search has at most {MAX_WORDS} words, not {len(words)}.", param="q")
    return words


def _registered(chain: ChainView, model: str) -> RegisteredVersion | None:
    if match := _HASH.fullmatch(model):
        return _by_hash(chain, Hash32("0x" + match[1]))
    if match := _NAMED.fullmatch(model):
        versions = chain.versions(creator=Account(match[1]), name=match[2])
        return _by_prefix(versions, match[3], model) if match[3] else _newest(versions)
    return None


def _is_bare(version: RegisteredVersion) -> bool:
    return version.record.adapter_digest == ZERO_HASH


def _newest(versions: Sequence[RegisteredVersion]) -> RegisteredVersion | None:
    """The last registered one that is not deprecated: deprecated versions are found by exact version only."""
    return next((v for v in reversed(versions) if not v.is_deprecated), None)


def _by_hash(chain: ChainView, value: Hash32) -> RegisteredVersion | None:
    if value == ZERO_HASH:
        return None
    known = chain.version(VersionId(value))
    if known is not None:
        versions = chain.versions(creator=known.creator, name=known.name)
        return next((v for v in versions if v.id == value), None)
    matches = chain.versions(adapter_digest=value)
    # Copies are registered later: a digest resolves to versions of the creator who registered it first.
    return _newest([v for v in matches if v.record.creator == matches[0].record.creator])


def _by_prefix(versions: Sequence[RegisteredVersion], prefix: str, model: str) -> RegisteredVersion | None:
    matches = [v for v in versions if v.id[2:].startswith(prefix)]
    if len(matches) > 1:
        raise InvalidInput(
            f"{model!r} matches {len(matches)} versions; give more digits of the version.",
            param="model",
            details={"versions": [v.id for v in matches]},
        )
    return matches[0] if matches else None
