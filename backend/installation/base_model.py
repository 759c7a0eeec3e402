"""Wires what an operator sells in its own name: the base model that it serves, and training on it. Like
`bootstrap`, a composition root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.hashing import to_hash
from backend.installation.installation import BaseFacts
from backend.installation.training_payments import record_of
from backend.services.operator.offers import Offers, base_record

if TYPE_CHECKING:
    from backend.domain.receipt import VersionRecord
    from backend.installation.installation import Installation


@dataclass(frozen=True, slots=True)
class Offer:
    """The base model, and by which records answers of the bare one and training on it are sold."""

    facts: BaseFacts
    base: VersionRecord
    training: VersionRecord | None
    """None where training is free."""

    @property
    def records(self) -> list[VersionRecord]:
        return [self.base] if self.training is None else [self.base, self.training]


def offers_of(installation: Installation) -> Offers:
    db, own = installation.database, installation.operator.account
    return Offers(db, installation.chain, own)


def prepare_offer(installation: Installation, prices: tuple[int, int]) -> Offer:
    """Find the base model that the settings name, fetched or converted on first use, and note its digest.

    `prices` of the bare one: token units per million prompt tokens, and completion tokens. Errors:
    `InvalidInput`.
    """
    facts, operator = _find_base(installation), installation.operator.account
    base = base_record(operator, facts.digest, facts.name, prices)
    installation.note_base(facts)
    return Offer(facts, base, record_of(installation))


def _find_base(installation: Installation) -> BaseFacts:
    from inference.errors import InferenceError
    from inference.model.base_model import base_model_digest
    from inference.model.sources import model_name, resolve_model

    settings = installation.settings
    try:
        folder = resolve_model(settings.base_model, settings.model_cache)
        digest = to_hash(bytes.fromhex(base_model_digest(folder)))
    except InferenceError as error:
        raise InvalidInput(str(error), param="base_model") from error
    return BaseFacts(model_name(folder).rpartition("/")[2], digest, str(folder.resolve()))
