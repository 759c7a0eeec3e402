from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from backend.api.schemas.common import Entries, Items, PrintableText, Schema, View
from backend.api.schemas.fine_tuning import JobErrorView
from backend.domain.adapter_files import MAX_TAGS, TAG_PATTERN
from backend.domain.training import About, TrainingJob


class ImportAdapterRequest(Schema):
    """`model`: name of the base model; needed where the operator serves several. `files`: ids of complete
    transfers by file name, exactly `adapter_config.json` and `adapter_model.safetensors`. `licence`: SPDX
    expression. Description, tags and `source`, such as a commit of a hub, go into the card as statements of
    the creator, by which the adapter is found.
    """

    model: str | None = None
    licence: str
    files: Entries[str, str] = Field(
        max_length=16,
        examples=[{"adapter_config.json": "transfer-...", "adapter_model.safetensors": "transfer-..."}],
    )
    description: PrintableText = Field("", max_length=4000)
    tags: Items[Annotated[str, Field(pattern=f"^{TAG_PATTERN}$")]] = Field(default=[], max_length=MAX_TAGS)
    source: Annotated[str, Field(pattern="^[!-~]*$")] = Field("", max_length=300)

    def about(self) -> About:
        return About(self.description, tuple(dict.fromkeys(self.tags)), self.source)


class AdapterView(View):
    """An imported adapter: one that was trained elsewhere. Times are unix seconds.

    `status`: validating, running, succeeded (published, and ready to be registered), failed or cancelled.
    Losses in `metrics` are nats per token on a fixed general data set; task quality is not measured.
    `version_id`: the registered version, once it is confirmed on the chain.
    """

    id: str
    object: Literal["adapter"] = "adapter"
    creator: str
    licence: str
    files: dict[str, str]
    description: str
    tags: list[str]
    source: str
    status: str
    created_at: int
    finished_at: int | None
    adapter_digest: str | None
    base_model: str | None
    metrics: dict[str, float]
    cid: str | None
    version_id: str | None
    error: JobErrorView | None

    @classmethod
    def of(cls, job: TrainingJob) -> AdapterView:
        """`job` has an imported adapter."""
        imported, result = job.imported, job.result
        assert imported is not None  # noqa: S101 - no other job is shown here
        return cls(
            id=job.id,
            creator=job.creator,
            licence=imported.licence,
            files=dict(imported.transfers),
            description=imported.about.description,
            tags=list(imported.about.tags),
            source=imported.about.source,
            status=job.state.value,
            created_at=int(job.created_at.timestamp()),
            finished_at=None if job.finished_at is None else int(job.finished_at.timestamp()),
            adapter_digest=None if result is None else result.adapter_digest,
            base_model=None if result is None else result.base_model,
            metrics={} if result is None else dict(result.metrics),
            cid=job.published_cid,
            version_id=job.version_id,
            error=JobErrorView.model_validate(job.error) if job.error else None,
        )
