"""Requests of `inference.protocol` as requests to vLLM's completions API, and what vLLM does not keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.errors import InvalidInput
from backend.engine.output_rows import TOP_TOKENS
from backend.ports.engine import UnsupportedReasoning
from inference.protocol import JsonSchema, Options, Regex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.protocol import Constraint, CountTokens, Generate

MAX_STOPS = 4
UNSUPPORTED = "unsupported_by_engine"
"""Code of requests that need this project's own engine."""
NOT_SERVED = ("dora", "alora", "embedding_and_head_adapters", "tools", "reasoning_effort")
"""Kinds of adapters and parts of requests that are refused, as operators publish them."""


def check_prompt(request: CountTokens | Generate) -> None:
    """Errors: `InvalidInput`, `UnsupportedReasoning`."""
    if request.tools is not None:
        raise _unsupported("tools", "tools")
    if any(message.role == "tool" or message.tool_calls for message in request.messages):
        raise _unsupported("messages with calls of tools or their results", "messages")
    if request.reasoning_effort is not None:
        message = "This operator's engine (vLLM) does not serve reasoning efforts; omit it."
        raise UnsupportedReasoning(message, "reasoning_effort", {"code": "unsupported_reasoning"})


def check_request(request: Generate) -> None:
    """Errors: as `check_prompt`, and `InvalidInput` for deadlines and for too many stop strings."""
    check_prompt(request)
    if request.deadline_ms is not None:
        raise _unsupported("deadlines of the engine", "deadline_ms")
    if len(request.sampling.stop) > MAX_STOPS:
        raise _unsupported(f"more than {MAX_STOPS} stop strings", "stop")


def prompt_body(request: CountTokens | Generate, model: str) -> dict[str, Any]:
    """Body of `POST /tokenize`: a chat ready for the assistant's turn, or raw text."""
    if request.prompt is not None:
        return {"model": model, "prompt": request.prompt, "add_special_tokens": True}
    turns = [
        {"role": message.role, "content": message.content, **({"name": message.name} if message.name else {})}
        for message in request.messages
    ]
    return {"model": model, "messages": turns, "add_generation_prompt": True, "add_special_tokens": False}


def completion_body(request: Generate, model: str, token_ids: Sequence[int]) -> dict[str, Any]:
    """Body of `POST /v1/completions`. Every parameter is explicit, or the checkpoint's generation_config.json
    would set it.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(token_ids),
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "max_tokens": sampling.max_tokens,
        "min_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "ignore_eos": sampling.ignore_eos,
    }
    optional = {
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()},
        "stop": list(sampling.stop),
        "cache_salt": request.payer,
        "priority": -request.priority,  # vLLM runs lower numbers first
    }
    body |= {name: value for name, value in optional.items() if value}
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    num_top = max(sampling.logprobs or 0, TOP_TOKENS if request.probe_error else 0)
    if num_top or sampling.logprobs is not None:
        body["logprobs"] = num_top
    if sampling.constraint is not None:
        body["structured_outputs"] = _structure(sampling.constraint)
    return body


def _structure(constraint: Constraint) -> dict[str, Any]:
    match constraint:
        case JsonSchema(schema):
            from inference.sampling.grammar_check import schema_with_options

            return {"json": schema_with_options(schema)}
        case Regex(pattern):
            return {"regex": pattern}
        case Options(options):
            return {"choice": list(options)}


def _unsupported(what: str, param: str) -> InvalidInput:
    return InvalidInput(
        f"This operator's engine (vLLM) does not serve {what}; omit them, or ask another operator.",
        param,
        {"code": UNSUPPORTED},
    )
