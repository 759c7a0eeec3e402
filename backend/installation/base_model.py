"""The base model that an installation serves: finding it, and the records by which its operator sells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.hashing import to_hash

if TYPE_CHECKING:
    from backend.domain.ids import Hash32
    from backend.domain.receipt import VersionRecord
    from backend.settings import Settings


@dataclass(frozen=True, slots=True)
class BaseModelInfo:
    """Name, digest and folder of a base model, stored in a file so that reading them does not load torch."""

    name: str
    digest: Hash32
    folder: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A base model, with the records by which answers without an adapter and training on it are sold."""

    info: BaseModelInfo
    base: VersionRecord
    training: VersionRecord | None
    """None if training is free."""

    @property
    def records(self) -> list[VersionRecord]:
        return [self.base] if self.training is None else [self.base, self.training]


def find_base_model(settings: Settings) -> BaseModelInfo:
    """Find the base model that the settings name; downloads or converts it on first use.

    Errors: `InvalidInput`.
    """
    from inference.errors import InferenceError
    from inference.model.base_model import base_model_digest
    from inference.model.sources import model_name, resolve_model

    try:
        folder = resolve_model(settings.base_model, settings.model_cache)
        digest = to_hash(bytes.fromhex(base_model_digest(folder)))
    except InferenceError as error:
        raise InvalidInput(str(error), param="base_model") from error
    return BaseModelInfo(model_name(folder).rpartition("/")[2], digest, str(folder.resolve()))
