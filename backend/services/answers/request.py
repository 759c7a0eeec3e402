"""A request for an answer, and the engine requests of its choices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace as replace_fields

from backend.services.answers.blend import Part
from backend.services.market.adapter_folders import adapter_ref
from inference import protocol

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from backend.domain.ids import Hash32
    from backend.services.channels.admission import Payer
    from backend.services.market.catalogue import Model

SEEDS_END = 1 << 63
TEMPLATE_BYTES = 8
"""That a chat template adds to each text, at least about so many."""

Folders: TypeAlias = "tuple[Path | None, ...]"
"""Adapter folders of a request's parts; None for the base model."""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A request to the engine, and who pays for it.

    `message` has prompt, sampling and priority; its id, adapters, probe and payer are set for each choice.
    `body`: the HTTP request's bytes, which the receipt commits to. `num_choices` answers are generated, of up
    to `max_tokens` each; the prompt is charged once. With a seed, choice i uses seed + i. `seconds`: the
    client's time limit for the whole answer. `is_streamed`: the client gets each chunk at once.
    """

    payer: Payer
    model: Model
    message: protocol.Generate
    body: bytes
    num_choices: int = 1
    seconds: float | None = None
    is_streamed: bool = False
    blend: tuple[Part, ...] = ()
    """Adapters that answer together; `model` is then the base model."""
    id_prefix: str = "chatcmpl-"
    """Of the answer's id, as in OpenAI's API."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.blend or (Part(self.model),)

    @property
    def base(self) -> Hash32:
        """Digest of the base model that answers."""
        return self.model.record.base_model

    @property
    def prompt_param(self) -> str:
        return "messages" if self.message.prompt is None else "prompt"

    @property
    def num_bytes(self) -> int:
        """Bytes of the prompt's texts, with some for what a chat template adds to each part."""
        message = self.message
        texts = [message.prompt or ""]
        for each in message.messages:
            texts += [each.content, each.name or ""]
            for call in each.tool_calls:
                texts += [call.name, call.arguments]
        if message.tools is not None:
            for function in message.tools.functions:
                texts += [function.name, function.description, function.parameters]
        return sum(len(text.encode()) for text in texts) + TEMPLATE_BYTES * (len(texts) - 1)

    def limited(self, max_tokens: int) -> Self:
        """The same request with this number of tokens for each choice."""
        sampling = replace_fields(self.message.sampling, max_tokens=max_tokens)
        return replace(self, message=replace_fields(self.message, sampling=sampling))

    def for_engine(self, answer_id: str, folders: Folders, *, probe_error: bool) -> list[protocol.Generate]:
        """One engine request per choice."""
        refs = [
            protocol.BlendPart(adapter_ref(part.model.record, folder), part.weight)
            for part, folder in zip(self.parts, folders, strict=True)
            if folder is not None
        ]
        has_snapshots = any(part.model.record.snapshots for part in self.parts)
        return [
            replace_fields(
                self.message,
                request_id=f"{answer_id}-{index}",
                sampling=_seeded(self.message.sampling, index),
                adapter=refs[0].adapter if refs and not self.blend else None,
                blend=protocol.AdapterBlend(tuple(refs)) if self.blend else None,
                probe=has_snapshots,
                probe_error=probe_error and has_snapshots,
                payer=self.payer.account,
            )
            for index in range(self.num_choices)
        ]


def _seeded(sampling: protocol.Sampling, index: int) -> protocol.Sampling:
    if sampling.seed is None or not index:
        return sampling
    seed = sampling.seed + index
    return replace_fields(sampling, seed=seed if seed < SEEDS_END else seed - 2 * SEEDS_END)
