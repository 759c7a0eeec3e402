"""Versions that this installation can serve, and the resolution of `model` names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput, NotFound, Unavailable
from backend.domain.ids import ZERO_HASH, Account, Hash32, VersionId
from backend.domain.money import PRICE, prices_in_dollars
from backend.domain.receipt import NAME_PATTERN
from backend.services.market.denials import check_answerable, is_served

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.denials import FloorPrice
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import RegisteredVersion
    from backend.ports.chain import ChainView

_HASH = re.compile(r"(?:0x)?([0-9a-f]{64})")
_NAMED = re.compile(rf"(0x[0-9a-f]{{40}})/({NAME_PATTERN})(?:@(?:0x)?([0-9a-f]{{4,64}}))?")


class ModelNotFound(NotFound):
    """No version of this name is served here."""


class PriceBelowFloor(ModelNotFound):
    """The version's price per token is below this operator's floor price."""


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
class BaseModel:
    """The engine's base model: sha-256 of its weights, its name, and the creator whose record prices it."""

    digest: Hash32
    name: str
    creator: Account


class Catalogue:
    def __init__(self, db: Database, base: BaseModel) -> None:
        self._db = db
        self._base = base

    @property
    def base_name(self) -> str:
        return self._base.name

    @property
    def base_digest(self) -> Hash32:
        return self._base.digest

    def floor(self) -> FloorPrice:
        with self._db.read() as tx:
            return tx.denials.floor()

    def models(self) -> list[Model]:
        """All models that can be served now: the base model, then the newest version of each name."""
        with self._db.read() as tx:
            denials = {denial.subject: denial for denial in tx.denials.all()}
            floor = tx.denials.floor()
            listed = (v for v in tx.chain.versions() if self._is_servable(v, floor) and not v.is_deprecated)
            versions = [v for v in listed if is_served(denials, tx.chain, v.record)]
            base = self._newest_base(tx)
        newest = {(v.record.creator, v.record.name): v for v in versions if not _is_bare(v)}
        return [self._model(v) for v in [*([base] if base else []), *newest.values()]]

    def resolve(self, model: str, payer: Account | None = None) -> Model:
        """Resolve `owner/name`, `owner/name@version prefix`, version id, adapter digest, or the base model's
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

    def _get(self, tx: UnitOfWork, model: str) -> RegisteredVersion:
        found = self._find(tx, model)
        if found is None:
            raise ModelNotFound(f"The model {model!r} does not exist here.", param="model")
        return found

    def _find(self, tx: UnitOfWork, model: str) -> RegisteredVersion | None:
        return self._newest_base(tx) if model == self._base.name else _registered(tx.chain, model)

    def _newest_base(self, tx: UnitOfWork) -> RegisteredVersion | None:
        floor, versions = tx.denials.floor(), tx.chain.versions(creator=self._base.creator)
        return _newest([v for v in versions if _is_bare(v) and self._is_servable(v, floor)])

    def _is_servable(self, version: RegisteredVersion, floor: FloorPrice) -> bool:
        return self._is_known(version.record) and floor.allows(version.record)

    def _is_known(self, record: VersionRecord) -> bool:
        """Whether the record is an adapter of our base model, or the configured creator's record of the bare
        base model. Others may register that one at any price.
        """
        is_other_bare = record.adapter_digest == ZERO_HASH and record.creator != self._base.creator
        return record.base_model == self._base.digest and not is_other_bare and not record.is_training

    def _check_servable(self, version: RegisteredVersion, model: str, floor: FloorPrice) -> None:
        record = version.record
        if record.base_model != self._base.digest:
            raise ModelNotFound(
                f"The model {model!r} is for the base model {record.base_model}; "
                f"this operator serves {self._base.digest}.",
                param="model",
            )
        if record.is_training:
            raise ModelNotFound(f"The record {model!r} prices training and serves no answers.", param="model")
        if not self._is_known(record):
            raise ModelNotFound(
                f"The model {model!r} is the base model without an adapter; here it is {self._base.name!r}.",
                param="model",
            )
        if not floor.allows(record):
            prices = prices_in_dollars(record.prompt_price, record.completion_price)
            lowest = prices_in_dollars(floor.prompt, floor.completion)
            raise PriceBelowFloor(
                f"The model {model!r} costs {prices}; this operator's floor is {lowest}.",
                param="model",
                details={
                    "prompt_price": PRICE.render(record.prompt_price),
                    "completion_price": PRICE.render(record.completion_price),
                    "floor_prompt_price": PRICE.render(floor.prompt),
                    "floor_completion_price": PRICE.render(floor.completion),
                },
            )

    def _model(self, version: RegisteredVersion) -> Model:
        record = version.record
        is_base = _is_bare(version)
        name = self._base.name if is_base else record.full_name(version.id)
        return Model(version.id, record, name, version.is_deprecated, version.block_number)


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
    found: list[RegisteredVersion] = []
    if match := _HASH.fullmatch(adapter):
        wanted = "0x" + match[1]
        found = [v for v in chain.versions() if wanted in (v.id, v.record.adapter_digest)]
    elif match := _NAMED.fullmatch(adapter):
        named = chain.versions(creator=Account(match[1]), name=match[2])
        found = [v for v in named if v.id[2:].startswith(match[3] or "")]
    if not found:
        raise ModelNotFound(
            f"No adapter {adapter!r} is registered: name `owner/name`, `owner/name@version` or a version id.",
            param="adapter",
        )
    return [version.id for version in found]


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
    matches = [v for v in chain.versions() if v.record.adapter_digest == value]
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
