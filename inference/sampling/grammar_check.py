"""Validates a constraint in a separate process, and reports what is wrong with it and where.

The grammar compiler is native code: long chains of references overflow its stack, and a `multipleOf` of
seven digits takes minutes. Code in the same process could not stop it. A constraint is therefore first
compiled and followed for a while here, with less stack than the engine's threads have and under limits of
time and memory; only constraints that pass are compiled in the engine's process.

Run as a script, without imports from this project. It reads a constraint as JSON from standard input, and
writes the reason and the location of a refusal to standard output, or null for a valid constraint, each as
a line of JSON.
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
_NUM_TRIED_BYTES = 200  # of each schema of an answer with tools, a part of them
_MIN_TRIED_BYTES = 10
# Each step of the engine needs time in proportion to the length of the literal.
MAX_LITERAL_LENGTH = 2048
_MAX_REASON_LENGTH = 300

# White space is limited, or a model could emit it for ever. \u escapes are not allowed, because the grammar
# would count a surrogate pair as two characters and a JSON parser as one.
_JSON_OPTIONS: Any = {
    "whitespace_pattern": "[ \\t\\n\\r]{1,16}",
    "json_allowed_escapes": 'nrbtf\\"',
    "coerce_one_of": False,
    "lenient": False,
}
_OPTIONS_KEY = "x-guidance"  # llguidance's own options, with which a schema could disable checks
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "$comment", "$id", "$schema"})
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


class Refused(Exception):
    """The constraint is refused. `where` is a JSON pointer into the schema, or None if not located yet."""

    def __init__(self, reason: str, where: str | None = None) -> None:
        self.reason = reason
        self.where = where
        super().__init__(reason)


def limits() -> LLParserLimits:
    """Limits a grammar to about 5 ms of a step's time, and its automaton to 20 MB."""
    return LLParserLimits(
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=10_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def grammar_of(constraint: dict[str, Any]) -> str:
    """The constraint in llguidance's grammar format. Raises `Refused` for an invalid schema."""
    match constraint["type"]:
        case "json_schema":
            return _schema_grammar(_parse(constraint["schema"]))
        case "regex":
            return f"start: /{regex_to_lark(constraint['pattern'], 'dw')}/"
        case "tool_calls":
            return LLMatcher.grammar_from_lark("\n".join(_call_rules(constraint)))
        case _:
            options = " | ".join(_literal(option) for option in constraint["options"])
            return LLMatcher.grammar_from_lark(f"start: {options}")


def schema_with_options(text: str) -> str:
    """The schema as text with our options in place of its own, for a server that compiles it by llguidance.
    Raises `Refused`.
    """
    return _with_options(_parse(text))


def check(constraint: dict[str, Any]) -> None:
    """Raises `Refused`. May crash or never return."""
    grammar = grammar_of(constraint)
    # Each schema on its own first: a random answer to all of them would not come far in any.
    schemas = _schemas(constraint) if constraint["type"] == "tool_calls" else {}
    num_bytes = max(_NUM_TRIED_BYTES // max(len(schemas), 1), _MIN_TRIED_BYTES)
    tried = (_try(_schema_grammar(_parse(text, name)), num_bytes) for name, text in schemas.items())
    reason = next(filter(None, tried), "") or _try(grammar)
    if reason:
        raise Refused(reason)


def find(constraint: dict[str, Any], reason: str) -> str:
    """Location of `reason` in a refused constraint. May exceed the time limit."""
    match constraint["type"]:
        case "json_schema":
            return _find_in_schema(constraint["schema"], reason)
        case "tool_calls":
            schemas = _schemas(constraint).items()
            refused = (
                (name, text) for name, text in schemas if _try(_schema_grammar(_parse(text))) == reason
            )
            return next((f"{name}{_find_in_schema(text, reason)}" for name, text in refused), "tools")
        case "regex":
            return "pattern"
        case _:
            return "options"


def _find_in_schema(text: str, reason: str) -> str:
    schema = _parse(text)
    shared: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return _find(schema, shared, reason, "#")


def _schemas(constraint: dict[str, Any]) -> dict[str, str]:
    """The schemas of an answer with tools: of its text, under the name "", and of the functions."""
    text_schema = constraint["text_schema"]
    return ({} if text_schema is None else {"": text_schema}) | dict(constraint["functions"])


def _call_rules(constraint: dict[str, Any]) -> Iterator[str]:
    """The Lark grammar of an answer with tools; `inference.tool_calls.CallGrammar` defines the constraint."""
    syntax, functions = constraint["syntax"], dict(constraint["functions"])
    calls = " | ".join(f"call_{index}" for index in range(len(functions)))
    more = _literal(f"{syntax['separator']}{syntax['marker']}") if constraint["is_parallel"] else None
    calls = f"({calls}) ({more} ({calls}))*" if more else f"({calls})"
    marker, any_text = _literal(syntax["marker"]), r"/(.|\n)*/"
    # Otherwise a literal could only be spelled as the tokenizer does, without tokens such as `<tool_call>`.
    yield '%llguidance {"no_forcing": true}'
    if constraint["is_required"]:
        yield f"start: {marker} {calls}"
    elif constraint["text_schema"] is not None:
        yield f"start: text | {marker} {calls}"
        yield f"text: {_json_rule(_parse(constraint['text_schema']))}"
    elif syntax["separator"] is None:
        yield f"start: TEXT | {marker} {calls}"
        yield f"TEXT: {any_text} & ~({marker} {any_text})"
    else:
        yield f"start: TEXT | opening {calls}"
        yield f"TEXT: {any_text} & ~({any_text} {marker} {any_text})"
        yield f"opening[lazy]: {any_text} {marker}"
    for index, (name, text) in enumerate(functions.items()):
        before = _literal(f"{syntax['before_name']}{name}{syntax['before_arguments']}")
        after = _literal(syntax["after_arguments"])
        yield f"call_{index}: {before} {_json_rule(_parse(text, name))} {after}"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json_rule(schema: dict[str, Any]) -> str:
    return f"%json {_with_options(schema)}"


def _with_options(schema: dict[str, Any]) -> str:
    return json.dumps({**schema, _OPTIONS_KEY: _JSON_OPTIONS}, ensure_ascii=False)


def _parse(text: str, name: str = "") -> dict[str, Any]:
    """`name` precedes the location of a refusal."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the schema is not JSON: {error}", f"{name}#") from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise Refused("a schema is an object", f"{name}#")
    schema.pop(_OPTIONS_KEY, None)
    for where, literal in _literals(schema, f"{name}#"):
        if len(literal) > MAX_LITERAL_LENGTH:
            raise Refused(f"a string of {len(literal)} characters; at most {MAX_LITERAL_LENGTH}", where)
    return schema


def _literals(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """All strings that become literals of the grammar, with their locations."""
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


def _try(grammar: str, num_bytes: int = _NUM_TRIED_BYTES) -> str:
    """Compile the grammar and follow it for some bytes; the error, or ""."""
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=limits())
    rng = random.Random(0)  # noqa: S311 -- a random walk, no secret
    for _ in range(num_bytes):
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
    """Location of the innermost subschema that is refused for the same reason on its own."""
    for key, subschema in _subschemas(schema):
        if isinstance(subschema, dict) and _try(_schema_grammar({**shared, **subschema})) == reason:
            return _find(subschema, shared, reason, f"{where}/{key}")
    return where


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in _SCHEMAS:
        yield key, schema.get(key)
    for key in _LISTS_OF_SCHEMAS:
        listed = schema.get(key)
        for index, subschema in enumerate(listed if isinstance(listed, list) else ()):
            yield f"{key}/{index}", subschema
    for key in _MAPS_OF_SCHEMAS:
        named = schema.get(key)
        for name, subschema in (named if isinstance(named, dict) else {}).items():
            yield f"{key}/{_escaped(name)}", subschema


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _write_line(text: str | None) -> None:
    sys.stdout.write(json.dumps(text) + "\n")
    sys.stdout.flush()


def _main() -> None:
    constraint = json.load(sys.stdin)
    try:
        check(constraint)
    except Refused as refused:
        _write_line(refused.reason)
        _write_line(refused.where or find(constraint, refused.reason))
    else:
        _write_line(None)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MIB << 20, MAX_MIB << 20))
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_main)
    thread.start()
    thread.join()
