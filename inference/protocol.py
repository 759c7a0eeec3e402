"""Messages between the engine process and its clients. Nothing here imports torch.

Every message is a JSON object with its `type` and the `request_id` chosen by the client; ids are scoped to a
connection. `inference.server.frames` is how they travel.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Annotated, Literal

from msgspec import Meta, Struct

MAX_EMBED_ITEMS = 64
MAX_TOP_LOGPROBS = 20
MIN_PRIORITY, MAX_PRIORITY = -1, 1
MAX_DEADLINE_MS = 24 * 3_600_000
MAX_BLEND_PARTS = 8
MAX_GRAMMAR_LENGTH = 1 << 16  # characters
MAX_FUNCTIONS = 128
_WEIGHT = struct.Struct(">d")
_BLEND_DOMAIN = b"loraledger/blend/v1\0"

FinishReason = Literal["stop", "length", "abort", "tool_calls"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ToolCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A call in an assistant's message. `arguments`: a JSON object as text."""

    name: str
    arguments: str


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a chat. `name`: the function whose result a message of the role `tool` has; of other
    roles the author, which few chat templates render.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None


class Function(Struct, frozen=True, forbid_unknown_fields=True):
    """A function that a model may call. `parameters`: the JSON schema of its arguments, as text."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    parameters: Annotated[str, Meta(max_length=MAX_GRAMMAR_LENGTH)]
    description: str = ""


class Tools(Struct, frozen=True, forbid_unknown_fields=True):
    """Functions that the prompt describes, in this order. The model answers in text, or calls some of them;
    `is_required`: it calls, and only the function `only` if that is set. The arguments match their schemas.
    Without `is_parallel` it calls at most once; so it does where the chat template has a single call.
    """

    functions: Annotated[tuple[Function, ...], Meta(min_length=1, max_length=MAX_FUNCTIONS)]
    is_required: bool = False
    only: str | None = None
    is_parallel: bool = True

    def __post_init__(self) -> None:
        names = {each.name for each in self.functions}
        if len(names) < len(self.functions) or not names.issuperset({self.only} - {None}):
            raise ValueError("tools name each function once, and `only` one of them")


class AdapterRef(Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter, identified by its content: `digest` has 64 hex digits (see
    `inference.lora.files.adapter_digest`), `path` is its local folder. The engine verifies the digest when it
    loads the folder.
    """

    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    path: str

    @property
    def refs(self) -> tuple[AdapterRef, ...]:
        return (self,)


class BlendPart(Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter and the factor of its delta."""

    adapter: AdapterRef
    weight: float


class AdapterBlend(Struct, frozen=True, forbid_unknown_fields=True):
    """Several adapters combined: the base model plus the weighted sum of their deltas."""

    parts: tuple[BlendPart, ...]

    def __post_init__(self) -> None:
        """Raises `ValueError`, which the decoder reports like any other invalid field."""
        if not 1 <= len(self.parts) <= MAX_BLEND_PARTS:
            raise ValueError(f"a blend has 1 to {MAX_BLEND_PARTS} adapters, not {len(self.parts)}")
        if not all(math.isfinite(part.weight) and part.weight for part in self.parts):
            raise ValueError("the weights of a blend are finite numbers other than zero")
        if len({part.adapter.digest for part in self.parts}) < len(self.parts):
            raise ValueError("a blend names each adapter once; add up the weights of the same one")

    @property
    def refs(self) -> tuple[AdapterRef, ...]:
        return tuple(part.adapter for part in self.parts)

    @property
    def digest(self) -> str:
        r"""Digest of the blend, 64 hex digits: SHA-256 over `b"loraledger/blend/v1\0"`, then for each part,
        sorted by digest, its digest (32 bytes) and its weight as a big-endian IEEE 754 double.
        """
        content = hashlib.sha256(_BLEND_DOMAIN)
        for part in sorted(self.parts, key=lambda part: part.adapter.digest):
            content.update(bytes.fromhex(part.adapter.digest) + _WEIGHT.pack(part.weight))
        return content.hexdigest()


class _WithAdapter:
    """A command that runs on the base model alone, with an adapter, or with a blend."""

    __slots__ = ()
    adapter: AdapterRef | None
    blend: AdapterBlend | None

    def __post_init__(self) -> None:
        if self.adapter is not None and self.blend is not None:
            raise ValueError("give either an adapter or a blend, not both")

    @property
    def adapter_or_blend(self) -> AdapterRef | AdapterBlend | None:
        """None for the base model alone."""
        return self.adapter or self.blend


class JsonSchema(Struct, frozen=True, tag="json_schema", forbid_unknown_fields=True):
    """The answer is JSON that matches `schema`, a JSON schema as text.

    Schemas with unsupported keywords are rejected. Properties appear in the schema's order.
    """

    schema: Annotated[str, Meta(max_length=MAX_GRAMMAR_LENGTH)]


class Regex(Struct, frozen=True, tag="regex", forbid_unknown_fields=True):
    r"""The whole answer matches `pattern`, in the syntax of Rust's `regex` crate, which has no look-around.
    `\d` and `\w` match ASCII only, as in the patterns of JSON schemas.
    """

    pattern: Annotated[str, Meta(max_length=4096)]


class Options(Struct, frozen=True, tag="options", forbid_unknown_fields=True):
    """The answer is one of `options`."""

    options: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=2048)], ...], Meta(min_length=1, max_length=1024)
    ]


Constraint = JsonSchema | Regex | Options


class Sampling(Struct, frozen=True, forbid_unknown_fields=True):
    """Sampling parameters; `inference.sampling.sampler` defines them and their order.

    `temperature` 0 is greedy. These values disable a parameter: `top_k` 0, `top_p` 1, `min_p` 0,
    `repetition_penalty` 1, and 0 for the other penalties and `min_tokens`. `logit_bias` maps token ids to an
    amount added to their logits. Without a `seed` the engine draws one. `logprobs` returns the
    log-probability of each token and that many alternatives. The answer satisfies `constraint` unless
    `max_tokens` or a stop string truncates it.
    """

    max_tokens: Annotated[int, Meta(ge=1)] = 256
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    temperature: Annotated[float, Meta(ge=0.0, le=10.0)] = 1.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Meta(ge=0)] = 0
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100.0)] = 1.0
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    logit_bias: Annotated[
        dict[Annotated[int, Meta(ge=0)], Annotated[float, Meta(ge=-100.0, le=100.0)]], Meta(max_length=1024)
    ] = {}
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=1024)], ...], Meta(max_length=16)] = ()
    ignore_eos: bool = False
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    constraint: Constraint | None = None


class Generate(_WithAdapter, Struct, frozen=True, tag="generate", forbid_unknown_fields=True):
    """Answer a chat (`messages`) or continue raw text (`prompt`); exactly one of them is set. Runs on the
    base model alone, with an `adapter`, or with a `blend`.

    `payer` identifies the tenant: capacity is divided fairly among payers, and each has its own prefix cache.
    `priority`: 1 for urgent, -1 for background requests; higher classes are scheduled first. `deadline_ms`
    after its arrival the request fails with `deadline_exceeded`, even if chunks were sent. `probe` returns
    states with the last chunk; `probe_error` adds their error vectors, which cost some work for each token.
    `traceparent` (W3C Trace Context) is the parent of the request's span. With `tools` a JSON schema as
    constraint binds the text of an answer that calls none. `reasoning_effort` is for the chat template.
    """

    request_id: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    adapter: AdapterRef | None = None
    sampling: Sampling = Sampling()
    probe: bool = False
    payer: Annotated[str, Meta(max_length=256)] = ""
    priority: Annotated[int, Meta(ge=MIN_PRIORITY, le=MAX_PRIORITY)] = 0
    deadline_ms: Annotated[int, Meta(ge=1, le=MAX_DEADLINE_MS)] | None = None
    blend: AdapterBlend | None = None
    probe_error: bool = False
    traceparent: Annotated[str, Meta(max_length=55)] | None = None
    tools: Tools | None = None
    reasoning_effort: ReasoningEffort | None = None


class Abort(Struct, frozen=True, tag="abort", forbid_unknown_fields=True):
    """Stop a request; its last `Chunk` has the finish reason `abort`. Unknown ids are ignored."""

    request_id: str


class CountTokens(Struct, frozen=True, tag="count_tokens", forbid_unknown_fields=True):
    """Count the prompt tokens of messages or of a raw prompt."""

    request_id: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    tools: Tools | None = None
    reasoning_effort: ReasoningEffort | None = None


class EmbedItem(Struct, frozen=True, forbid_unknown_fields=True):
    """A chat or a raw prompt, and optionally its answer."""

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    completion: str | None = None


class Embed(_WithAdapter, Struct, frozen=True, tag="embed", forbid_unknown_fields=True):
    """Compute the states that `Generate(probe=True)` would return for given answers, without sampling."""

    request_id: str
    items: Annotated[tuple[EmbedItem, ...], Meta(min_length=1, max_length=MAX_EMBED_ITEMS)]
    adapter: AdapterRef | None = None
    blend: AdapterBlend | None = None


class GetStatus(Struct, frozen=True, tag="get_status", forbid_unknown_fields=True):
    request_id: str


class GetMetrics(Struct, frozen=True, tag="get_metrics", forbid_unknown_fields=True):
    request_id: str


class ProbeStates(Struct, frozen=True):
    """Vectors of the model's hidden size, from the final hidden states (after the last norm).

    `prompt` is the mean of the states at the prompt's positions. `answer` is the mean of the states from
    which the answer's tokens were predicted, including the end-of-sequence token; None without an answer.
    `error` is the sum over the same tokens of the gradient of each token's loss with respect to its state:
    see `inference.probe.ErrorProbe`. Servers that return no states have error vectors alone.
    """

    prompt: list[float] | None
    answer: list[float] | None
    num_prompt_tokens: int
    num_answer_tokens: int
    error: list[float] | None = None

    @property
    def is_finite(self) -> bool:
        # A sum of 32-bit numbers cannot overflow, and keeps NaN and infinity.
        return all(math.isfinite(sum(each or ())) for each in (self.prompt, self.answer, self.error))


class TokenLogprob(Struct, frozen=True):
    """A token's id, its bytes (not always valid UTF-8), and the natural logarithm of its probability."""

    token_id: int
    token: bytes
    logprob: float


class TokenLogprobs(Struct, frozen=True):
    """One position of an answer: the sampled token, and the most likely tokens in descending order.

    Probabilities are the model's, before temperature, penalties, bias and truncation, as vLLM's are by
    default; so the sampled token may be less likely than all of `top`.
    """

    chosen: TokenLogprob
    top: list[TokenLogprob]


class CallDelta(Struct, frozen=True):
    """Progress of an answer's call number `index`: first its `name`, then its arguments in pieces."""

    index: int
    name: str | None = None
    arguments: str = ""


class Chunk(Struct, frozen=True, tag="chunk"):
    """Progress of one request. `text` and `token_ids` are new since the last chunk; counts are totals.

    `completion_tokens` counts every sampled token, including the end-of-sequence token. `text` may lag behind
    `token_ids` while a character or a stop string is incomplete. The last chunk has a `finish_reason`.
    `cached_prompt_tokens`: prompt tokens found in the prefix cache. `logprobs`, if requested, has an item for
    each of `token_ids`. `queue_seconds`: time from the request's arrival until it first ran.

    With tools, `text` is what the model wrote, calls included; `content` is its part before the calls, and
    `calls` are those. The finish reason `tool_calls` states that an answer ended with complete calls.
    """

    request_id: str
    text: str
    token_ids: list[int]
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason | None = None
    probe: ProbeStates | None = None
    cached_prompt_tokens: int = 0
    logprobs: list[TokenLogprobs] | None = None
    queue_seconds: float = 0.0
    content: str | None = None
    calls: tuple[CallDelta, ...] = ()


class TokenCount(Struct, frozen=True, tag="token_count"):
    request_id: str
    num_tokens: int
    max_context: int


class Embedding(Struct, frozen=True, tag="embedding"):
    """Answer to `Embed`, in the order of its items."""

    request_id: str
    items: list[ProbeStates]


class Status(Struct, frozen=True, tag="status"):
    """State of the engine. `active_adapters` are in device slots, of which there are `num_adapter_slots`;
    `resident_adapters` are in the host cache.
    `kv_blocks_named` are in the prefix cache now, `kv_blocks_used` are held by requests. `plain_features` are
    the parts of the model's decoder that run in plain torch, because the native kernels do not compute them.
    `weight_format` is how the weights of linear layers, head and adapters are stored: `fp32`, `bf16`, `fp16`
    or `int8`.
    Totals since the start: `prefix_cache_queries` and `prefix_cache_hits`, prompt tokens and those found in
    the cache; `adapter_*`, requests whose adapter was on the device, requests whose adapter was on the host,
    and adapters read from disk; `num_proposed_tokens` and `num_accepted_tokens`, of prompt lookup.
    """

    request_id: str
    model: str
    base_model_digest: str
    max_context: int
    active_adapters: list[str]
    resident_adapters: list[str]
    resident_bytes: int
    num_running: int
    num_waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    num_preemptions: int
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    kv_blocks_named: int = 0
    adapter_device_hits: int = 0
    adapter_host_hits: int = 0
    adapter_loads: int = 0
    plain_features: list[str] = []
    num_proposed_tokens: int = 0
    num_accepted_tokens: int = 0
    weight_format: str | None = None
    num_adapter_slots: int = 0


class Metrics(Struct, frozen=True, tag="metrics"):
    """The engine's metrics in Prometheus' text format; see `inference.server.metrics`."""

    request_id: str
    text: str


class Error(Struct, frozen=True, tag="error"):
    """A command failed. `code` is stable; `retryable`: whether the same command may succeed later."""

    request_id: str
    code: str
    message: str
    retryable: bool = False


Command = Generate | Abort | CountTokens | Embed | GetStatus | GetMetrics
Event = Chunk | TokenCount | Embedding | Status | Metrics | Error
