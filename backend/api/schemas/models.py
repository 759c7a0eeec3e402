from __future__ import annotations

from pydantic import Field

from backend.api.schemas.common import Price, View
from backend.domain.content import cid_of
from backend.domain.ids import ZERO_HASH
from backend.domain.money import AMOUNT
from backend.services.answers.generate import EngineState
from backend.services.market.catalogue import Model
from backend.services.market.provenance import Provenance


class PricingView(View):
    """Prices in dollars per token, exact decimals, as clients of other gateways read them."""

    prompt: str
    completion: str


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

    @classmethod
    def of(cls, model: Model, provenance: Provenance, base_name: str, engine: EngineState) -> ModelView:
        record = model.record
        return cls(
            id=model.name,
            created=provenance.registered_at,
            owned_by=record.creator,
            root=base_name,
            parent=None if model.is_base else base_name,
            version_id=model.id,
            digest=None if model.is_base else record.adapter_digest,
            cid=None if record.cid_digest == ZERO_HASH else cid_of(record.cid_digest),
            base_model=record.base_model,
            snapshots=list(record.snapshots),
            licence=provenance.licence,
            context_length=engine.max_context,
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
        )
