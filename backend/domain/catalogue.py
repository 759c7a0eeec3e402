"""The catalogue of models: what is known of a version besides its record, and how versions are searched."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from backend.domain.denials import FloorPrice
    from backend.domain.ids import Account, Hash32, VersionId
    from backend.domain.registries import RegisteredVersion

USAGE_DAYS = 7
"""Days (UTC), today included, over which the catalogue counts answers."""
CHART_DAYS = 30
"""Days (UTC), today included, of which the number of answers of each is kept."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model that this operator serves: sha-256 of its weights, its name, and the creator whose record
    prices it. `training_price`: token units per million charged tokens; None if adapters of it are not
    trained here. `not_served`: kinds of adapters and parts of requests that its engines refuse.
    """

    digest: Hash32
    name: str
    creator: Account
    training_price: int | None = 0
    not_served: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """What this operator serves now. `active_adapters`: digests of those that an engine has loaded."""

    bases: Sequence[BaseModel]
    floor: FloorPrice
    active_adapters: Collection[Hash32] = ()


class Sort(StrEnum):
    """Order of a list of models. Ties are broken by the version's id."""

    NEWEST = "newest"
    """The latest registration first."""
    PRICE = "price"
    """The lowest completion price first, then the lowest prompt price."""
    QUALITY = "quality"
    """The largest `Description.quality` first; models without one last."""
    USAGE = "usage"
    """The most answers in `USAGE_DAYS` first."""


@dataclass(frozen=True, slots=True)
class ModelQuery:
    """Conditions on models, all of which must hold. The empty query has all models in the order of their
    registration, the base models first.

    `words`: case-folded; each occurs in the name, the card or a datanet's name. `licences`: SPDX expressions
    of which the model's is one. `max_price`: neither price is above it, in token units per million tokens.
    `tag`: one of the card's; ASCII letters match in either case.
    """

    words: tuple[str, ...] = ()
    licences: Collection[str] | None = None
    max_price: int | None = None
    is_active: bool | None = None
    tag: str | None = None
    sort: Sort | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """A version's model card, which the publisher of its folder wrote: untrusted text.

    `summary`: the first paragraph, shortened. `text`: Markdown without the front matter; None in lists, which
    do not read it.
    """

    title: str
    summary: str
    tags: tuple[str, ...]
    text: str | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well attribution methods agree with gradients on this adapter, as its creator states it: the mean
    Spearman correlation between the contributions' scores by the method and by the gradient, over
    `num_answers` answers that the adapter generated and that were kept out of the methods' fit.
    """

    by_method: Mapping[str, float]
    num_answers: int


@dataclass(frozen=True, slots=True)
class Description:
    """What this installation knows of a version besides its record.

    `licence`: SPDX expression of the contributions' `licences` together, or the one that the importer stated;
    None if unknown. `parents`: versions whose training it continued; None if it was not trained or imported
    here. `metrics`: as of `TrainingResult`, empty if it was not measured here. `card`: None until its folder
    is stored here. `agreement`: None until then too, and if the folder states none.
    """

    licence: str | None = None
    parents: tuple[VersionId, ...] | None = None
    num_contributions: int = 0
    licences: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    card: Card | None = None
    agreement: Agreement | None = None

    @property
    def quality(self) -> float | None:
        """Nats per answer token by which the loss on held-out rows is below the base model's."""
        if "eval_loss_adapter" not in self.metrics:
            return None
        return self.metrics["eval_loss_base"] - self.metrics["eval_loss_adapter"]


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """`registered_at`: unix seconds of the registration's block. `num_answers`: in `USAGE_DAYS`."""

    version: RegisteredVersion
    registered_at: int
    description: Description
    num_answers: int
