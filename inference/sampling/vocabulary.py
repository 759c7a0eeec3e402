"""Vocabulary of the model: the bytes of its tokens, for log-probabilities and grammars."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING

from llguidance import LLTokenizer

from inference.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable


class Vocabulary:
    """`size` token ids, of which `end_token_ids` end an answer."""

    def __init__(self, size: int, end_token_ids: frozenset[int], tokenizer_json: Callable[[], str]) -> None:
        """`tokenizer_json` returns the content of a `tokenizer.json`."""
        self.size = size
        self.end_token_ids = end_token_ids
        self._tokenizer_json = tokenizer_json

    @cached_property
    def trie(self) -> LLTokenizer:
        """Built on first use, which holds the interpreter's lock for about half a second.

        Raises `UnsupportedModelError` for a tokenizer without an end token, or that llguidance cannot read.
        """
        try:
            tokenizer_json = _with_plain_tokens(self._tokenizer_json(), self.end_token_ids)
            return LLTokenizer(tokenizer_json, n_vocab=self.size, eos_token=sorted(self.end_token_ids))
        except ValueError as error:
            reason = f"constraints and log-probabilities need the bytes of this model's tokens: {error}"
            raise UnsupportedModelError(reason) from error

    def warm_up(self) -> None:
        """Build `trie` now, rather than on first use, which would delay all running requests.

        Raises `UnsupportedModelError`.
        """
        _ = self.trie

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token, which need not be valid UTF-8; the name of a special token."""
        return self.trie.decode_bytes([token_id])


def _with_plain_tokens(tokenizer_json: str, end_token_ids: frozenset[int]) -> str:
    """The tokenizer with its added tokens as plain ones, unless it calls them special.

    llguidance takes every added token in angle brackets for a control token, which no text contains. Qwen's
    `<tool_call>` and `<think>` are text: a grammar must be able to allow them.
    """
    tokenizer = json.loads(tokenizer_json)
    added, vocabulary = tokenizer["added_tokens"], tokenizer["model"]["vocab"]
    kept = [
        token
        for token in added
        if token["special"] or token["id"] in end_token_ids or not _is_its_own_name(token["content"])
    ]
    if len(kept) == len(added) or not isinstance(vocabulary, dict):
        return tokenizer_json
    # With their names in the vocabulary, the tokens that are kept keep their ids too.
    vocabulary.update({token["content"]: token["id"] for token in added})
    return json.dumps(tokenizer | {"added_tokens": kept})


def _is_its_own_name(content: str) -> bool:
    """Whether a token of this content has it as its name: others are escaped, in ways that differ."""
    return content.isascii() and content.isprintable() and " " not in content
