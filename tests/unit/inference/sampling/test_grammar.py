from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLParserLimits

from inference.errors import GrammarTooComplexError, InvalidRequestError, InvalidSchemaError
from inference.outputs import Failure
from inference.protocol import Chunk, Constraint, Generate, JsonSchema, Options, Regex, Sampling
from inference.sampling import grammar, grammar_check
from inference.sampling.grammar import GrammarCompiler
from tests.fixtures_engine import drain, make_model, run_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine

LEAVES = st.one_of(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "number"},
            {"type": "number", "multipleOf": 0.25, "exclusiveMinimum": -3, "maximum": 12.5},
            {"type": "string", "pattern": "^[a-c]{1,4}$"},
            {"type": "string", "format": "date"},
            {"type": "string", "format": "ipv4"},
            {"type": ["integer", "null"], "minimum": 0, "maximum": 7},
            {"enum": ["é", 'quo"te', 3, None, {"a": [1]}]},
            {"const": {"x": [True, "\u20ac\n"]}},
            {"$ref": "#/$defs/shared"},
        ]
    ),
    st.tuples(st.integers(-99, 0), st.integers(1, 5000)).map(
        lambda ends: {"type": "integer", "minimum": ends[0], "maximum": ends[1]}
    ),
    st.tuples(st.integers(0, 2), st.integers(2, 6)).map(
        lambda ends: {"type": "string", "minLength": ends[0], "maxLength": ends[1]}
    ),
)


def _arrays(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, least, most: {
            "type": "array",
            "items": items,
            "minItems": least,
            "maxItems": least + most,
        },
        part,
        st.integers(0, 2),
        st.integers(0, 2),
    )


def _objects(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b c", "d/e", "é", "$f"])
    return st.builds(
        lambda parts, is_required: {
            "type": "object",
            "properties": parts,
            "required": [name for name in parts if is_required or len(name) > 1],
            "additionalProperties": False,
        },
        st.dictionaries(names, part, max_size=3),
        st.booleans(),
    )


def _inner(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.lists(part, min_size=2, max_size=2)
    return st.one_of(
        _arrays(part),
        _objects(part),
        pairs.map(lambda parts: {"anyOf": parts}),
        pairs.map(lambda parts: {"type": "array", "prefixItems": parts, "items": False, "minItems": 2}),
    )


SCHEMAS = st.recursive(LEAVES, _inner, max_leaves=5).map(
    lambda schema: {**schema, "$defs": {"shared": {"type": "string", "maxLength": 3}}}
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schemas=st.lists(SCHEMAS, min_size=2, max_size=4), seed=st.integers(0, 2**30))
def test_a_random_models_answer_parses_and_satisfies_its_schema(
    schemas: list[dict[str, Any]], seed: int, make_engine: Callable[..., Engine]
) -> None:
    """All requests run in one batch, with preemptions."""
    engine = make_engine(kv_budget_bytes=140 * 2048, kv_block_size=4)
    blank = {engine.tokenizer.encode_prompt((), text)[0]: -100.0 for text in (" ", "\t", "\n", "\r")}
    commands = [
        Generate(
            str(index),
            prompt="x" * 30,
            sampling=Sampling(
                max_tokens=400,
                seed=seed + index,
                logit_bias=blank,  # blanks alone would fill the context
                constraint=JsonSchema(json.dumps(schema)),
            ),
        )
        for index, schema in enumerate(schemas)
    ]
    answers = run_all(engine, *commands)
    for index, schema in enumerate(schemas):
        answer = answers[str(index)]
        assert answer.error is None
        assert answer.last.finish_reason == "stop", answer.text
        validator = jsonschema.Draft202012Validator
        validator(schema, format_checker=validator.FORMAT_CHECKER).validate(json.loads(answer.text))


def answer_to(engine: Engine, constraint: Constraint, **options: Any) -> Any:
    sampling = Sampling(**{"max_tokens": 300, "seed": 1, **options}, constraint=constraint)
    return run_all(engine, Generate("r", prompt="x", sampling=sampling))["r"]


def test_patterns_and_options_are_kept_to(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    options = ("yes", 'no "é"\n')
    assert re.fullmatch(r"[a-f]{3}-\d+!", answer_to(engine, Regex(r"[a-f]{3}-\d+!")).text)
    assert {answer_to(engine, Options(options), seed=seed).text for seed in range(9)} == set(options)


def test_tokens_that_only_pad_the_model_are_never_chosen(
    tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """A vocabulary of whole words of 32 bits, for which llguidance's masks are longer than others."""
    engine = make_engine(make_model(tmp_path, vocab_size=288))
    bias = dict.fromkeys(range(261, 288), 100.0)
    assert re.fullmatch("[a-z]{20}", answer_to(engine, Regex("[a-z]{20}"), logit_bias=bias).text)


def test_an_answer_may_be_cut_by_its_length_and_by_stop_strings(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    cut = answer_to(engine, Regex("a{20}b"), max_tokens=6)
    assert (cut.text, cut.last.finish_reason) == ("aaaaaa", "length")
    stopped = answer_to(engine, Regex("a{20}b"), stop=("aaa",))
    assert (stopped.text, stopped.last.finish_reason) == ("", "stop")


def test_a_greedy_model_ends_only_where_the_grammar_does(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    (end,) = engine.tokenizer.eos_token_ids
    answer = answer_to(engine, Regex("abc"), temperature=0.0, logit_bias={end: 100.0})
    assert (answer.text, answer.token_ids[-1]) == ("abc", end)


@pytest.mark.parametrize("options", [{"min_tokens": 1}, {"ignore_eos": True}])
def test_options_that_contradict_a_grammar_are_refused(
    options: dict[str, Any], make_engine: Callable[..., Engine]
) -> None:
    with pytest.raises(InvalidRequestError, match="constraint"):
        answer_to(make_engine(), Regex("a"), **options)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Constraints that were checked, instead of read from the cache."""
    seen: list[str] = []
    real = grammar._check

    def check(message: dict[str, Any]) -> InvalidSchemaError | None:
        seen.append(message["pattern"])
        return real(message)

    monkeypatch.setattr(grammar, "_check", check)
    return seen


def test_grammars_and_refusals_are_kept_by_content_up_to_a_number(
    checks: list[str], make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "_MAX_CACHED", 1)
    monkeypatch.setattr(grammar, "_MAX_CHECKED", 2)
    compiler = GrammarCompiler(make_engine().vocabulary)
    for pattern in ("a", "[", "a", "[", "b", "a"):
        if pattern == "[":
            with pytest.raises(InvalidSchemaError) as refused:
                compiler.compile(Regex(pattern))
            assert refused.value.where == "pattern"
        else:
            compiler.compile(Regex(pattern))
    assert checks == ["a", "[", "b", "a"]


def test_a_grammar_that_explodes_fails_its_requests_and_is_compiled_again(
    checks: list[str], make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_check, "limits", lambda: LLParserLimits(max_lexer_states=40))
    engine = make_engine()
    long = Regex("[a-z]{90}")
    innocent = Generate("i", prompt="x", sampling=Sampling(max_tokens=100, seed=2, ignore_eos=True))
    constrained = Generate("r", prompt="x", sampling=Sampling(max_tokens=100, constraint=long))
    answers = run_all(engine, constrained, innocent)
    assert isinstance(answers["r"].error, GrammarTooComplexError)
    assert answers["i"].last.finish_reason == "length"
    assert not engine.grammars.compile(long).is_exhausted
    assert checks == [long.pattern]


def test_one_payer_cannot_exhaust_the_grammar_of_another(
    checks: list[str], make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_check, "limits", lambda: LLParserLimits(max_lexer_states=40))
    engine = make_engine()
    long = Regex("[a-z]{90}")
    engine.add(Generate("r", prompt="x", payer="one", sampling=Sampling(max_tokens=100, constraint=long)))
    other = engine.grammars.compile(long, "other")
    assert any(isinstance(output, Failure) for output in engine.run())
    assert engine.grammars.compile(long, "other") is other
    assert not other.is_exhausted
    assert checks == [long.pattern], "payers share the check"


def test_an_answer_that_its_grammar_ends_has_a_last_chunk_with_what_was_held_back(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_check, "limits", lambda: LLParserLimits(max_lexer_states=40))
    engine = make_engine()
    sampling = Sampling(max_tokens=100, constraint=Regex("[a-z]{90}"), stop=("q" * 200,))
    engine.add(Generate("r", prompt="x", sampling=sampling, probe=True, probe_error=True))
    outputs = list(engine.run())
    failure = outputs[-1]
    assert isinstance(failure, Failure)
    assert failure.last is not None
    chunks = [output for output in outputs if isinstance(output, Chunk)]
    assert failure.last.completion_tokens == len(chunks) > 0
    assert failure.last.finish_reason is None
    tokens = [token_id for chunk in chunks for token_id in chunk.token_ids]
    engine.embed("e", engine.tokenizer.encode_prompt((), "x"), tokens, None)
    found, expected = failure.last.probe, drain(engine)["e"].last.probe
    assert found is not None
    assert expected is not None
    assert found.answer == pytest.approx(expected.answer, abs=1e-4)
    assert found.error == pytest.approx(expected.error, abs=1e-4)


def test_a_schema_that_crashes_the_compiler_is_refused(make_engine: Callable[..., Engine]) -> None:
    """Thousands of nested references overflow its stack; the engine's process does not notice."""
    chain = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(1200)}
    nested = json.dumps({"$defs": {**chain, "d1200": {}}, "$ref": "#/$defs/d0"})
    for schema, reason in ((nested, "too deeply"), ('{"items":' * 7000, "not JSON")):
        with pytest.raises(InvalidSchemaError, match=reason):
            make_engine().grammars.compile(JsonSchema(schema))


@pytest.mark.deep
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 99_999_999},
        {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (83, 89, 97)]},
    ],
)
def test_a_schema_that_would_compile_for_ever_is_refused(
    schema: dict[str, Any], make_engine: Callable[..., Engine]
) -> None:
    with pytest.raises(InvalidSchemaError, match="needs more than 1 s"):
        make_engine().grammars.compile(JsonSchema(json.dumps(schema)))
