from __future__ import annotations

import json
from typing import Any

import pytest

from inference.sampling.grammar_check import MAX_LITERAL_LENGTH, Refused, check, find


def refusal(schema: Any) -> tuple[str, str]:
    """The error of a schema and its location."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    constraint = {"type": "json_schema", "schema": text}
    with pytest.raises(Refused) as refused:
        check(constraint)
    return refused.value.reason, refused.value.where or find(constraint, refused.value.reason)


@pytest.mark.parametrize(
    ("schema", "reason", "where"),
    [
        ("{", "not JSON", "#"),
        ("[]", "is an object", "#"),
        ("false", "is an object", "#"),
        ({"type": "strin"}, "Invalid type: strin", "#"),
        ({"properties": {"a/b": {"minLength": -1}}}, "positive integer", "#/properties/a~1b"),
        ({"items": {"anyOf": [{}, {"uniqueItems": True}]}}, '"uniqueItems"', "#/items/anyOf/1"),
        ({"$defs": {"d": {"not": {}}}, "items": {"$ref": "#/$defs/d"}}, '"not"', "#/items"),
        ({"properties": {"a": {"$ref": "#/$defs/no"}}}, "does not exist", "#/properties/a"),
        ({"$ref": "file:///etc/passwd"}, "does not fetch", "#"),
        ({"properties": {"a": {"pattern": "("}}}, "unclosed group", "#/properties/a"),
        ({"properties": {"a": {"format": "idn-email"}}}, "Unknown format", "#/properties/a"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "minimum", "#"),
        ({"$ref": "#"}, "no answer can match", "#"),
        ({"enum": ["ok", "x" * (MAX_LITERAL_LENGTH + 1)]}, "a string of 2049", "#/enum/1"),
        ({"type": "object", "not": {}, "x-guidance": {"lenient": True}}, '"not"', "#"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_at_its_place(
    schema: Any, reason: str, where: str
) -> None:
    said, place = refusal(schema)
    assert reason in said
    assert place == where


def test_a_pattern_and_options_are_named_as_their_fields() -> None:
    constraint = {"type": "regex", "pattern": "[a-z"}
    with pytest.raises(Refused, match="unclosed") as refused:
        check(constraint)
    assert find(constraint, refused.value.reason) == "pattern"


@pytest.mark.parametrize(
    "constraint",
    [
        {"type": "json_schema", "schema": "true"},
        {"type": "json_schema", "schema": json.dumps({"title": "x" * 5000, "type": "string", "fancy": 1})},
        {"type": "regex", "pattern": r"[a-z]+@x\.com"},
        {"type": "options", "options": ["yes", 'no / "maybe"\n', "é"]},
    ],
)
def test_what_can_be_kept_to_is_accepted(constraint: dict[str, Any]) -> None:
    check(constraint)
