from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, decoders, models

from inference.errors import UnsupportedModelError
from inference.protocol import Generate, Regex, Sampling
from inference.sampling.grammar import GrammarCompiler
from inference.sampling.vocabulary import Vocabulary
from inference.tool_calls import HERMES, CallGrammar
from tests.fixtures_engine import run_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.engine import Engine


def sentence_pieces() -> str:
    pieces = ["<unk>", "</s>", "\u2581a", "b", "<0xE2>"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer.to_str()


def test_tokens_are_bytes_even_where_they_are_no_characters() -> None:
    vocabulary = Vocabulary(7, frozenset({1}), sentence_pieces)
    assert [vocabulary.token_bytes(token_id) for token_id in (2, 3, 4)] == [b" a", b"b", b"\xe2"]


def with_added_tokens() -> Tokenizer:
    alphabet = {character: number for number, character in enumerate("<>_aclot")}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>", "<control>"])
    tokenizer.add_tokens(["<tool_call>", "<a b>"])
    return tokenizer


@pytest.mark.parametrize("is_required", [True, False])
def test_added_tokens_are_text_unless_they_are_special(*, is_required: bool) -> None:
    tokenizer = with_added_tokens()
    end, control, call = map(tokenizer.token_to_id, ("</s>", "<control>", "<tool_call>"))
    vocabulary = Vocabulary(tokenizer.get_vocab_size(), frozenset({end}), tokenizer.to_str)
    assert vocabulary.token_bytes(call) == b"<tool_call>"
    grammar = CallGrammar(HERMES, (("a", "{}"),), is_required, is_parallel=True, text_schema=None)
    mask = GrammarCompiler(vocabulary).compile(grammar).start().allowed()
    allowed = [bool(mask[each >> 3] >> (each & 7) & 1) for each in (end, control, call)]
    assert allowed == [not is_required, False, True]


def test_a_tokenizer_that_cannot_be_read_costs_only_what_needs_it(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    engine.vocabulary._tokenizer_json = lambda: Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str()
    for sampling in (Sampling(logprobs=1), Sampling(constraint=Regex("a"))):
        with pytest.raises(UnsupportedModelError, match="bytes of this model's tokens"):
            engine.add(Generate("r", prompt="x", sampling=sampling))
    plain = Sampling(max_tokens=3, min_tokens=3, repetition_penalty=1.2)
    assert run_all(engine, Generate("r", prompt="x", sampling=plain))["r"].error is None


def test_a_vocabulary_without_an_end_token_is_unsupported() -> None:
    with pytest.raises(UnsupportedModelError, match="eos_token"):
        Vocabulary(7, frozenset(), sentence_pieces).warm_up()
