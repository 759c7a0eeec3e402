"""Tries a constraint in a process of its own, and says what is wrong with it and where.

The compiler of grammars is native code: long chains of references overflow its stack, a `multipleOf` of seven
digits keeps it busy for minutes. Nothing in the same process could stop it. So a constraint is first compiled
and followed for a while here, with less stack than the engine's threads have and under limits of time and
memory; only what survives is compiled again beside the engine.

Run as a script, which imports nothing of this project: a constraint in JSON on standard input, on standard
output the reason of a refusal and the place of it, or null if all is well; a line of JSON each.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import threading
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CPU_SECONDS = 1
MAX_MIB = 512
_STACK_BYTES = 2 << 20
_NUM_TRIED_BYTES = 200
# Following a literal costs time in proportion to its length, at every step of the engine.
MAX_LITERAL_LENGTH = 2048
_MAX_REASON_LENGTH = 300

# Blanks are bounded, or a model could go on with them for ever. Without \u escapes a character is a
# character: a surrogate pair would count twice for the grammar and once for whoever reads the answer.
_JSON_OPTIONS: Any = {
    "whitespace_pattern": "[ \\t\\n\\r]{1,16}",
    "json_allowed_escapes": 'nrbtf\\"',
    "coerce_one_of": False,
    "lenient": False,
}
_OPTIONS_KEY = "x-guidance"  # a schema could lift the checks by it
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "$comment", "$id", "$schema"})
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


class Refused(Exception):
    """`where` is a JSON pointer into the schema, or None where that has still to be found."""

    def __init__(self, reason: str, where: str | None = None) -> None:
        self.reason = reason
        self.where = where
        super().__init__(reason)


def limits() -> LLParserLimits:
    """A step of one grammar takes at most some 5 ms of the engine's time, its automaton at most 20 MB."""
    return LLParserLimits(
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=10_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def grammar_of(constraint: dict[str, Any]) -> str:
    """The compiler's own form. Raises `Refused` for a schema that is no schema at all."""
    match constraint["type"]:
        case "json_schema":
            return _schema_grammar(_parse(constraint["schema"]))
        case "regex":
            return f"start: /{regex_to_lark(constraint['pattern'], 'dw')}/"
        case _:
            options = " | ".join(json.dumps(option, ensure_ascii=False) for option in constraint["options"])
            return LLMatcher.grammar_from_lark(f"start: {options}")


def check(constraint: dict[str, Any]) -> None:
    """Raises `Refused`; may as well never return, or crash."""
    reason = _try(grammar_of(constraint))
    if reason:
        raise Refused(reason)


def find(constraint: dict[str, Any], reason: str) -> str:
    """The place in a refused constraint that `reason` speaks of. It may take longer than there is time."""
    if constraint["type"] != "json_schema":
        return "pattern" if constraint["type"] == "regex" else "options"
    schema = _parse(constraint["schema"])
    shared: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return _find(schema, shared, reason, "#")


def _parse(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the schema is not JSON: {error}", "#") from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise Refused("a schema is an object", "#")
    schema.pop(_OPTIONS_KEY, None)
    for where, literal in _literals(schema, "#"):
        if len(literal) > MAX_LITERAL_LENGTH:
            raise Refused(f"a string of {len(literal)} characters; at most {MAX_LITERAL_LENGTH}", where)
    return schema


def _literals(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """All strings that the grammar would have to follow."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _literals(item, f"{where}/{index}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield where, key
            if key not in _ANNOTATIONS or not isinstance(item, str):
                yield from _literals(item, f"{where}/{_escaped(key[:80])}")


def _schema_grammar(schema: dict[str, Any]) -> str:
    return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)


def _try(grammar: str) -> str:
    """Compile and follow it for a while, over single bytes; what went wrong, or ""."""
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=limits())
    rng = random.Random(0)  # noqa: S311 -- a walk, not a secret
    for _ in range(_NUM_TRIED_BYTES):
        if matcher.is_error() or matcher.is_stopped():
            break
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        if allowed:
            matcher.consume_token(rng.choice(allowed))
    if not matcher.is_error():
        return ""
    lines = [line.strip() for line in matcher.get_error().splitlines() if line != "<non-verbose/>"]
    reason = " ".join(lines)[:_MAX_REASON_LENGTH]
    return "no answer can match it" if reason.startswith("NoExtension") else reason


def _find(schema: dict[str, Any], shared: dict[str, Any], reason: str, where: str) -> str:
    """The innermost part of `schema` that alone is refused for the same reason."""
    for step, part in _parts(schema):
        if isinstance(part, dict) and _try(_schema_grammar({**shared, **part})) == reason:
            return _find(part, shared, reason, f"{where}/{step}")
    return where


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in _SCHEMAS:
        yield key, schema.get(key)
    for key in _LISTS_OF_SCHEMAS:
        parts = schema.get(key)
        for index, part in enumerate(parts if isinstance(parts, list) else ()):
            yield f"{key}/{index}", part
    for key in _MAPS_OF_SCHEMAS:
        named = schema.get(key)
        for name, part in (named if isinstance(named, dict) else {}).items():
            yield f"{key}/{_escaped(name)}", part


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _say(text: str | None) -> None:
    sys.stdout.write(json.dumps(text) + "\n")
    sys.stdout.flush()


def _main() -> None:
    constraint = json.load(sys.stdin)
    try:
        check(constraint)
    except Refused as refused:
        _say(refused.reason)
        _say(refused.where or find(constraint, refused.reason))
    else:
        _say(None)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MIB << 20, MAX_MIB << 20))
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_main)
    thread.start()
    thread.join()
