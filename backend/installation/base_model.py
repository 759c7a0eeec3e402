"""The base models that an installation serves: finding them, and the records by which they are sold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from backend.disk.files import write_durably
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.hashing import to_hash

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.domain.ids import Account, Hash32
    from backend.domain.receipt import VersionRecord
    from backend.settings import Base, Settings


@dataclass(frozen=True, slots=True)
class BaseModelInfo:
    """Name, digest and folder of a base model, stored in a file so that reading them does not load torch."""

    name: str
    digest: Hash32
    folder: str
    model: str | None = None
    """The setting that named it; None if it is not known."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A base model, with the records by which answers without an adapter and training on it are sold."""

    info: BaseModelInfo
    base: VersionRecord
    training: VersionRecord | None
    """None if training is free, or not offered."""
    trains: bool = True

    @property
    def records(self) -> list[VersionRecord]:
        return [self.base] if self.training is None else [self.base, self.training]


def find_base_model(model: str, cache: Path) -> BaseModelInfo:
    """Find a base model as a setting names it; downloads or converts it on first use.

    Errors: `InvalidInput`.
    """
    from inference.errors import InferenceError
    from inference.model.base_model import base_model_digest
    from inference.model.sources import model_name, resolve_model

    try:
        folder = resolve_model(model, cache)
        digest = to_hash(bytes.fromhex(base_model_digest(folder)))
    except InferenceError as error:
        raise InvalidInput(str(error), param="base_model") from error
    return BaseModelInfo(model_name(folder).rpartition("/")[2], digest, str(folder.resolve()), model)


def check_distinct(infos: Sequence[BaseModelInfo]) -> None:
    """Errors: `InvalidInput` for two that have one name or digest, as requests name them by these."""
    for kind in ("name", "digest"):
        values: list[str] = [getattr(info, kind) for info in infos]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise InvalidInput(f"two base models have the {kind} {twice!r}: leave one out", param="bases")


def offer(operator: Account, info: BaseModelInfo, base: Base, prices: tuple[int, int]) -> Offer:
    """What the operator sells of a base model. Errors: `InvalidInput`."""
    from backend.domain.training_payment import training_record
    from backend.services.operator.offers import base_record

    training = training_record(operator, info.digest, base.training_price) if base.training_price else None
    sold = base_record(operator, info.digest, info.name, prices)
    return Offer(info, sold, training, trains=base.training_price is not None)


def load_base_models(settings: Settings) -> dict[Hash32, BaseModelInfo]:
    """The base models by digest, in the order of the settings, from the files of `save_base_model`.

    Errors: `NotFound` for one that was not prepared.
    """
    found = map(_load, settings.served)
    return {info.digest: info for info in found}


def _load(base: Base) -> BaseModelInfo:
    prepare = (
        "prepare the base model with `loraledger operator base --prices PROMPT COMPLETION`; on the local "
        "network `loraledger up` does"
    )
    if not base.file.is_file():
        raise NotFound(f"no {base.file}: {prepare}")
    info = BaseModelInfo(**json.loads(base.file.read_text()))
    if info.model not in {None, base.model}:
        raise NotFound(f"{base.file} is of {info.model!r}, but the settings name {base.model!r}: {prepare}")
    return info


def save_base_model(info: BaseModelInfo, path: Path) -> None:
    write_durably(path, json.dumps(asdict(info), indent=2) + "\n")
