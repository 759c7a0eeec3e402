"""Request fields that the endpoints for answers share, under OpenAI's names."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from backend.api.schemas.common import CONTRADICTION, NOT_EMPTY, UNSUPPORTED_VALUE, Entries, Items, Schema
from backend.domain.split import MAX_SLICES
from inference.protocol import MAX_GRAMMAR_LENGTH, Generate, Sampling

MAX_CHOICES = 8
SAMPLING_FIELDS = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "seed"),
        *("repetition_penalty", "presence_penalty", "frequency_penalty"),
    }
)
"""Request fields that the engine knows by the same name."""

Penalty = Annotated[float, Field(ge=-2, le=2)]
Text = Annotated[str, Field(max_length=1 << 20)]


def _check_empty(value: object) -> None:
    if value is not None and value != []:
        raise PydanticCustomError(NOT_EMPTY, "send null or an empty list, or omit it")


Empty = Annotated[
    None,
    BeforeValidator(_check_empty),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {}, "maxItems": 0}, {"type": "null"}]}),
]
"""A field that OpenAI's messages have. Clients may send it back without a value, which changes nothing."""
Metadata = (
    Annotated[
        Entries[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16),
    ]
    | None
)
ServiceTier = Literal["auto", "default", "flex"] | None
PRIORITIES: dict[str | None, int] = {"flex": -1}
"""Engine priority of service tiers; 0 for all others."""


def response_tier(tier: ServiceTier) -> Literal["default", "flex"] | None:
    """`service_tier` of the response to a request with this one."""
    return "default" if tier == "auto" else tier


class Strict(Schema):
    """Rejects inexact JSON types too: an ignored parameter would give a wrong answer."""

    model_config = ConfigDict(strict=True)


def contradiction(param: str, message: str) -> PydanticCustomError:
    """Validation error between fields; `param` is the field at fault."""
    return PydanticCustomError(CONTRADICTION, "{message}", {"message": message, "param": param})


def unsupported(param: str, message: str) -> PydanticCustomError:
    """Validation error of a value that OpenAI's API has and this one does not."""
    return PydanticCustomError(UNSUPPORTED_VALUE, "{message}", {"message": message, "param": param})


def schema_text(schema: dict[str, Any], param: str) -> str:
    """A JSON schema as text, with its properties in the order of the request. Raises the validation error of
    one that is too long; `param` is its field.
    """
    try:
        text = json.dumps(schema, ensure_ascii=False)
    except RecursionError:
        text = ""
    if not 0 < len(text) <= MAX_GRAMMAR_LENGTH:
        reason = f"The parameter '{param}' is nested too deeply or exceeds {MAX_GRAMMAR_LENGTH} characters"
        raise contradiction(param, reason)
    return text


class StreamOptions(Strict):
    include_usage: bool = False


class JsonSchemaFormat(Strict):
    """`strict` has no effect: the answer always matches the schema, or the schema is rejected."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: Annotated[str, Field(max_length=4096)] | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            at = "response_format.json_schema"
            raise contradiction(
                at, f"The parameter '{at}' is required with type 'json_schema', and allowed only with it"
            )
        _ = self.text
        return self

    @property
    def text(self) -> str | None:
        """The schema as JSON text."""
        if self.type == "text":
            return None
        schema = self.json_schema.json_schema if self.json_schema else None
        return schema_text(
            {"type": "object"} if schema is None else schema, "response_format.json_schema.schema"
        )


class BlendPart(Strict):
    """`weight`: factor of the adapter's delta; in proportion to it, tokens are charged at its price. The
    weights of a blend sum to at most 1; those of earlier releases' receipts may be larger.
    """

    model: Annotated[str, Field(min_length=1, max_length=200)]
    weight: Annotated[float, Field(ge=0.01, le=4)]


class Extension(Strict):
    """Parameters beyond OpenAI's. `deadline_ms`: time limit, after which the answer is truncated and charged
    up to there. `blend`: adapters to combine; `model` must be the base model then.
    """

    deadline_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None
    blend: Annotated[Items[BlendPart], Field(min_length=1, max_length=MAX_SLICES)] | None = None


class ModelFields(Strict):
    """Parameters of all endpoints: OpenAI's, and `top_k`, `min_p` and `repetition_penalty` of vLLM. `top_p` 0
    leaves the most likely token alone, as `temperature` 0 does.
    """

    model: Annotated[str, Field(min_length=1, max_length=200)]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    stream: bool | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    loraledger: Extension | None = None

    @property
    @abstractmethod
    def num_choices(self) -> int: ...

    @property
    def seconds(self) -> float | None:
        """The client's time limit."""
        deadline = self.loraledger.deadline_ms if self.loraledger else None
        return None if deadline is None else deadline / 1000

    @property
    def blend(self) -> list[BlendPart]:
        return (self.loraledger.blend if self.loraledger else None) or []

    @abstractmethod
    def to_generate(self, default_max_tokens: int) -> Generate:
        """The engine's request, without an id and adapters."""

    def _sampling(self, **fields: Any) -> Sampling:
        """Sampling parameters, and `fields` that differ between the endpoints."""
        given = self.model_dump(include=set(SAMPLING_FIELDS), exclude_none=True)
        if self.top_p == 0:
            given |= {"temperature": 0.0, "top_p": 1.0}
        return Sampling(**given, **fields)


class AnswerFields(ModelFields):
    """Parameters of both completion endpoints."""

    stop: str | Annotated[Items[str], Field(max_length=4)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[
            Entries[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024),
        ]
        | None
    ) = None
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _check_stream_and_stop(self) -> AnswerFields:
        if self.stream_options is not None and not self.stream:
            raise contradiction("stream_options", "The parameter 'stream_options' requires 'stream'")
        if any(not stop for stop in self.stops):
            raise contradiction("stop", "The parameter 'stop' has an empty string")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _sampling(self, **fields: Any) -> Sampling:
        bias = {int(token_id): bias for token_id, bias in (self.logit_bias or {}).items()}
        return super()._sampling(**fields, logit_bias=bias, stop=self.stops)
