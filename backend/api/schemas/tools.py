"""Functions that an answer may call, and their calls and results, in requests of both chat endpoints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, Field, field_validator

from backend.api.schemas.sampling import Strict, Text, contradiction
from inference.protocol import MAX_FUNCTIONS, MAX_GRAMMAR_LENGTH, Function, Tools

if TYPE_CHECKING:
    from collections.abc import Sequence

ToolMode = Literal["none", "auto", "required"]
FunctionName = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=128)]
MaxTools = Field(max_length=MAX_FUNCTIONS)
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
"""Schema of a function without `parameters`."""


def _check_arguments(text: str) -> str:
    try:
        is_object = isinstance(json.loads(text, parse_constant=_refuse_constant), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise ValueError("it is not a JSON object, as text")
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


Arguments = Annotated[Text, AfterValidator(_check_arguments)]
"""Arguments of a call: a JSON object as text."""


class FunctionDefinition(Strict):
    """`parameters`: a JSON schema of an object. `strict` has no effect: arguments always match the schema, or
    the schema is rejected.
    """

    name: FunctionName
    description: Annotated[str, Field(max_length=1 << 14)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None and schema.get("type", "object") != "object":
            raise ValueError("arguments are an object, so the schema's 'type' must be 'object'")
        try:
            is_small = len(_schema_text(schema)) <= MAX_GRAMMAR_LENGTH
        except RecursionError:
            is_small = False
        if not is_small:
            raise ValueError(f"it is nested too deeply or exceeds {MAX_GRAMMAR_LENGTH} characters")
        return schema

    def to_function(self) -> Function:
        return Function(self.name, _schema_text(self.parameters), self.description or "")


def _schema_text(schema: dict[str, Any] | None) -> str:
    return json.dumps(NO_PARAMETERS if schema is None else {"type": "object"} | schema, ensure_ascii=False)


def build_tools(
    functions: Sequence[tuple[str, FunctionDefinition]],
    choice: ToolMode | None,
    only: str | None,
    *,
    is_parallel: bool | None,
) -> Tools | None:
    """The engine's tools; None if the answer calls none. `functions`: each with its path in the request.
    `only`: the function that `tool_choice` names, if it does.

    Raises the validation error of a name that occurs twice, of schemas that are too long together, and of a
    choice without its function.
    """
    if not functions:
        for name, value in (("tool_choice", choice or only), ("parallel_tool_calls", is_parallel)):
            if value is not None:
                raise contradiction(name, f"The parameter '{name}' requires 'tools'")
        return None
    named: dict[str, Function] = {}
    for path, definition in functions:
        if definition.name in named:
            reason = f"The parameter 'tools' has more than one function '{definition.name}'"
            raise contradiction(f"{path}.name", reason)
        named[definition.name] = definition.to_function()
    if sum(len(each.parameters) for each in named.values()) > MAX_GRAMMAR_LENGTH:
        reason = f"The schemas of the parameter 'tools' exceed {MAX_GRAMMAR_LENGTH} characters together"
        raise contradiction("tools", reason)
    if only is not None and only not in named:
        reason = f"The parameter 'tool_choice' names '{only}', which is no function of 'tools'"
        raise contradiction("tool_choice", reason)
    if choice == "none":
        return None
    is_required = choice == "required" or only is not None
    return Tools(tuple(named.values()), is_required, only, is_parallel is not False)


class OpenCalls:
    """Calls that have no result yet."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, call_id: str, function: str, path: str) -> None:
        """Raises the validation error of an id that is open already; `path` is the field of the call."""
        if call_id in self._names:
            raise contradiction(path, f"The parameter '{path}' has the id '{call_id}' of another call")
        self._names[call_id] = function

    def close(self, call_id: str, path: str) -> str:
        """Name of the function that was called. Raises the validation error of a result without a call."""
        if call_id not in self._names:
            reason = (
                f"The parameter '{path}' is '{call_id}', which is no call of the assistant before it, or has "
                "its result already"
            )
            raise contradiction(path, reason)
        return self._names.pop(call_id)
