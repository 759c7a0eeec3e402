"""The versions this installation can serve, and what a `model` string means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput, NotFound, Unavailable
from backend.domain.ids import ZERO_HASH, Account, Hash32, VersionId
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
    """No version that this installation serves goes by this name."""


class PriceBelowFloor(ModelNotFound):
    """The version's creator asks less for a token than this operator serves one for."""


@dataclass(frozen=True, slots=True)
class Model:
    """A version under the name that clients use: `owner/name@version`, or the base model's name."""

    id: VersionId
    record: VersionRecord
    name: str
    is_deprecated: bool
    block_number: int
    """Where it was registered."""

    @property
    def is_base(self) -> bool:
        return self.record.adapter_digest == ZERO_HASH

    def goes_by(self, name: str) -> bool:
        """Whether the name, as `Catalogue.resolve` reads them, is one of this version."""
        if match := _HASH.fullmatch(name):
            return "0x" + match[1] in (self.id, self.record.adapter_digest)
        if match := _NAMED.fullmatch(name):
            has_root = (match[1], match[2]) == (self.record.creator, self.record.name)
            return has_root and self.id[2:].startswith(match[3] or "")
        return name == self.name


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What the engine has loaded: sha-256 of the weights, its name here, whose record sets the price."""

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
            return tx.policy.floor()

    def models(self) -> list[Model]:
        """All that can be served now: newest version of each name, the base model first."""
        with self._db.read() as tx:
            denials = {denial.subject: denial for denial in tx.policy.all()}
            floor = tx.policy.floor()
            listed = (v for v in tx.chain.versions() if self._is_servable(v, floor) and not v.is_deprecated)
            versions = [v for v in listed if is_served(denials, tx.chain, v.record)]
            base = self._newest_base(tx)
        newest = {(v.record.creator, v.record.name): v for v in versions if not _is_bare(v)}
        return [self._model(v) for v in [*([base] if base else []), *newest.values()]]

    def resolve(self, model: str, payer: Account | None = None) -> Model:
        """`owner/name`, `owner/name@version prefix`, version id, adapter digest, or the base model's name.

        Raises ModelNotFound, also for what is not served at its price; ModelDenied; PayerDenied.
        """
        with self._db.read() as tx:
            found = self._known(tx, model)
            self._check_servable(found, model, tx.policy.floor())
            check_answerable(tx, found.record, payer)
        return self._model(found)

    def record(self, model: str) -> VersionRecord:
        """Likewise, served here or not. Raises ModelNotFound."""
        with self._db.read() as tx:
            return self._known(tx, model).record

    def _known(self, tx: UnitOfWork, model: str) -> RegisteredVersion:
        found = self._find(tx, model)
        if found is None:
            raise ModelNotFound(f"The model {model!r} does not exist here.", param="model")
        return found

    def _find(self, tx: UnitOfWork, model: str) -> RegisteredVersion | None:
        return self._newest_base(tx) if model == self._base.name else _registered(tx.chain, model)

    def _newest_base(self, tx: UnitOfWork) -> RegisteredVersion | None:
        floor, versions = tx.policy.floor(), tx.chain.versions(creator=self._base.creator)
        return _newest([v for v in versions if _is_bare(v) and self._is_servable(v, floor)])

    def _is_servable(self, version: RegisteredVersion, floor: FloorPrice) -> bool:
        return self._is_known(version.record) and floor.allows(version.record)

    def _is_known(self, record: VersionRecord) -> bool:
        """Anybody can register our base model at any price: its price is the configured creator's to set."""
        is_foreign_bare = record.adapter_digest == ZERO_HASH and record.creator != self._base.creator
        return record.base_model == self._base.digest and not is_foreign_bare and not record.is_training

    def _check_servable(self, version: RegisteredVersion, model: str, floor: FloorPrice) -> None:
        record = version.record
        if record.base_model != self._base.digest:
            raise ModelNotFound(
                f"The model {model!r} is for the base model {record.base_model}; "
                f"this operator serves {self._base.digest}.",
                param="model",
            )
        if record.is_training:
            raise ModelNotFound(f"By {model!r} training is paid; it is no model that answers.", param="model")
        if not self._is_known(record):
            raise ModelNotFound(
                f"The model {model!r} is the base model without an adapter; here it is {self._base.name!r}.",
                param="model",
            )
        if not floor.allows(record):
            raise PriceBelowFloor(
                f"The model {model!r} costs {record.prompt_price} token units per million prompt tokens and "
                f"{record.completion_price} per million completion tokens; this operator serves from "
                f"{floor.prompt} and {floor.completion} up.",
                param="model",
                details={
                    "prompt_price": record.prompt_price,
                    "completion_price": record.completion_price,
                    "floor_prompt_price": floor.prompt,
                    "floor_completion_price": floor.completion,
                },
            )

    def _model(self, version: RegisteredVersion) -> Model:
        record = version.record
        is_base = _is_bare(version)
        name = self._base.name if is_base else f"{record.creator}/{record.name}@{version.id[2:14]}"
        return Model(version.id, record, name, version.is_deprecated, version.block_number)


def adapter_record(db: Database, adapter: str) -> VersionRecord:
    """Of any adapter that is registered, for whoever serves none: `owner/name`, `owner/name@version prefix`,
    version id or adapter digest. Raises ModelNotFound, and Unavailable before the chain is indexed.
    """
    with db.read() as tx:
        cursor, found = tx.chain.cursor(), _registered(tx.chain, adapter)
    if cursor is None:
        raise Unavailable(
            "No block of the chain is indexed in this home yet: run `loraledger index`, and repeat this once "
            "it has read the chain."
        )
    if found is None or _is_bare(found):
        raise ModelNotFound(
            f"No adapter {adapter!r} is registered up to block {cursor.number}, the last that is indexed in "
            "this home; `loraledger index` reads on.",
            param="adapter",
        )
    return found.record


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
    """The last registered one; a deprecated one only by its exact version."""
    return next((v for v in reversed(versions) if not v.is_deprecated), None)


def _by_hash(chain: ChainView, value: Hash32) -> RegisteredVersion | None:
    if value == ZERO_HASH:
        return None
    known = chain.version(VersionId(value))
    if known is not None:
        versions = chain.versions(creator=known.creator, name=known.name)
        return next((v for v in versions if v.id == value), None)
    known_as = [v for v in chain.versions() if v.record.adapter_digest == value]
    # Whoever copies an adapter registers it later; the name of its bytes stays with who came first.
    return _newest([v for v in known_as if v.record.creator == known_as[0].record.creator])


def _by_prefix(versions: Sequence[RegisteredVersion], prefix: str, model: str) -> RegisteredVersion | None:
    matches = [v for v in versions if v.id[2:].startswith(prefix)]
    if len(matches) > 1:
        raise InvalidInput(
            f"{model!r} names {len(matches)} versions; write more digits of one.",
            param="model",
            details={"versions": [v.id for v in matches]},
        )
    return matches[0] if matches else None
