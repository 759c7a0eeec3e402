from __future__ import annotations

from pydantic import Field

from backend.api.schemas.common import MAX_ITEMS, Amount, Price, PriceText, Schema, View
from backend.domain.catalogue import USAGE_DAYS, Sort
from backend.domain.content import cid_of
from backend.domain.ids import ZERO_HASH
from backend.domain.money import AMOUNT
from backend.ports.engine import EngineState
from backend.services.market.catalogue import ListedModel, Search


class ModelFilters(Schema):
    """Parameters of a search for models; all conditions must hold."""

    q: str = Field(
        "", max_length=200, description="Words that all occur in the name, the card or a datanet's name."
    )
    licence: str | None = Field(
        None,
        max_length=256,
        description="SPDX expression; models whose licences can be met with those that it names.",
    )
    max_price: PriceText | None = Field(
        None, description="Dollars per million tokens that neither the prompt nor the completion exceeds."
    )
    active: bool | None = Field(None, description="Whether the adapter is loaded in the engine.")
    base: str | None = Field(None, max_length=100, description="Name or digest of the base model.")
    tag: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="A tag of the card, in any case of its letters.",
    )
    sort: Sort | None = Field(
        None,
        description="`newest`; `price`: the lowest completion price first; `quality` or `usage`: the highest "
        "first. Default: the base models, then by registration.",
    )
    after: str | None = Field(None, max_length=200, description="`next_cursor` of the previous page.")
    limit: int | None = Field(None, ge=1, le=MAX_ITEMS, description="Default: all models, without pages.")

    def search(self) -> Search:
        return Search(self.q, self.licence, self.max_price, self.active, self.base, self.tag, self.sort)


class PricingView(View):
    """Prices in dollars per token, exact decimals, as clients of other gateways read them."""

    prompt: str
    completion: str


class CardView(View):
    """The model card of the version's folder. The publisher of the folder wrote it: untrusted text.

    `summary`: the first paragraph, shortened. `text`: the whole card in Markdown; null in lists.
    """

    title: str
    summary: str
    tags: list[str]
    text: str | None


class AgreementView(View):
    """How well attribution methods agree with the gradient on this adapter: the mean Spearman correlation of
    the contributions' scores, over answers that the adapter generated and that were kept out of the methods'
    fit. It is not LDS, which needs retraining (docs/attribution.md). The creator states it;
    `loraledger attribution verify` recomputes it.
    """

    by_method: dict[str, float]
    num_answers: int


class LiveAgreementView(View):
    """How well attribution agrees with the gradient on answers that this operator served: the mean Spearman
    correlation of the contributions' scores by the default method and by the gradient. Blocks that come later
    than an answer choose the sample. It is the operator's own statement, which others cannot recompute.

    `mean`: null before the first measurement. `num_answers` were measured. `num_missing` were sampled and
    not measured, or not yet.
    """

    mean: float | None
    num_answers: int = Field(validation_alias="num_measured")
    num_missing: int


class LineageView(View):
    """What the version was made from. `parents`: versions whose training it continued; null if it was neither
    trained nor imported by this operator. `licences`: those of the contributions.
    """

    parents: list[str] | None
    snapshots: list[str]
    num_contributions: int
    licences: list[str]


class ContributorsPaidView(View):
    """What batches that this operator has verified, those of other operators included, credit to contributors
    through this version. Pending batches count, void ones do not.
    """

    amount: Amount
    num_contributors: int


class ModelView(View):
    """OpenAI's model object with additional fields."""

    id: str
    object: str = "model"
    created: int = Field(description="Unix seconds of the registration; 0 for the base model.")
    owned_by: str
    root: str = Field(description="The base model.")
    parent: str | None = Field(description="The base model, for adapters.")
    version_id: str
    digest: str | None
    cid: str | None
    base_model: str
    snapshots: list[str]
    licence: str | None = Field(
        description="SPDX expression of the licences of its snapshots' contributions combined, or "
        "the one stated by the creator of an imported adapter; null if unknown to this operator."
    )
    context_length: int | None = Field(
        description="Tokens that prompt and answer share; null while the engine is unreachable."
    )
    weight_format: str | None = Field(
        description="Format of the weights of the base model and of adapters in this operator's engine: "
        "`fp32`, `bf16`, `fp16`, or `int8`, with which answers differ slightly (docs/engine.md). Null while "
        "the engine is unreachable, if its server does not state it, as vLLM's, and while replicas differ. "
        "Prices do not depend on it."
    )
    prompt_price: Price
    completion_price: Price
    pricing: PricingView
    operator_ppm: int
    creator_ppm: int
    is_deprecated: bool
    is_active: bool = Field(
        description="Whether the adapter is loaded in the engine: the first token then needs no load."
    )
    block_number: int
    card: CardView | None = Field(description="Null until this operator stores the version's folder.")
    metrics: dict[str, float] = Field(
        description="Losses in nats per answer token, and other measurements; empty unless this operator "
        "trained or imported the adapter."
    )
    quality: float | None = Field(
        description="Nats per answer token by which the loss on held-out rows is below the base model's; "
        "null if it was not measured. Each adapter is measured on rows of its own data."
    )
    agreement: AgreementView | None = Field(
        description="Null until this operator stores the version's folder, and if the folder states none."
    )
    live_agreement: LiveAgreementView | None = Field(
        description="Null until a block has sampled an answer of this version. Not used for payment."
    )
    lineage: LineageView
    contributors_paid: ContributorsPaidView
    num_answers: int = Field(
        description=f"Answers of this operator in the last {USAGE_DAYS} days, a minute ago."
    )

    @classmethod
    def of(cls, listed: ListedModel, base_name: str, engine: EngineState) -> ModelView:
        model, known = listed.model, listed.description
        record = model.record
        return cls(
            id=model.name,
            created=0 if model.is_base else listed.registered_at,
            owned_by=record.creator,
            root=base_name,
            parent=None if model.is_base else base_name,
            version_id=model.id,
            digest=None if model.is_base else record.adapter_digest,
            cid=None if record.cid_digest == ZERO_HASH else cid_of(record.cid_digest),
            base_model=record.base_model,
            snapshots=list(record.snapshots),
            licence=known.licence,
            context_length=engine.max_context,
            weight_format=engine.weight_format,
            prompt_price=record.prompt_price,
            completion_price=record.completion_price,
            # A token costs as many micro-units as a million tokens cost token units.
            pricing=PricingView(
                prompt=AMOUNT.decimal(record.prompt_price), completion=AMOUNT.decimal(record.completion_price)
            ),
            operator_ppm=record.operator_ppm,
            creator_ppm=record.creator_ppm,
            is_deprecated=model.is_deprecated,
            is_active=model.is_base or record.adapter_digest in engine.active_adapters,
            block_number=model.block_number,
            card=None if known.card is None else CardView.model_validate(known.card),
            metrics=dict(known.metrics),
            quality=known.quality,
            agreement=None if known.agreement is None else AgreementView.model_validate(known.agreement),
            live_agreement=None
            if listed.live_agreement is None
            else LiveAgreementView.model_validate(listed.live_agreement),
            lineage=LineageView(
                parents=None if known.parents is None else list(known.parents),
                snapshots=list(record.snapshots),
                num_contributions=known.num_contributions,
                licences=list(known.licences),
            ),
            contributors_paid=ContributorsPaidView(
                amount=listed.contributors_earned, num_contributors=listed.num_paid
            ),
            num_answers=listed.num_answers,
        )
