"""The tokenizer's tokens as bytes, shared by log-probabilities and grammars."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from llguidance import LLTokenizer

from inference.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable


class Vocabulary:
    """`size` token ids, of which `end_token_ids` end an answer."""

    def __init__(self, size: int, end_token_ids: frozenset[int], tokenizer_json: Callable[[], str]) -> None:
        """`tokenizer_json` returns a `tokenizer.json` as the tokenizers library writes it."""
        self.size = size
        self.end_token_ids = end_token_ids
        self._tokenizer_json = tokenizer_json

    @cached_property
    def trie(self) -> LLTokenizer:
        """Building it holds the interpreter's lock for about half a second.

        Raises `UnsupportedModelError` for a tokenizer without an end or that llguidance cannot read.
        """
        try:
            return LLTokenizer(
                self._tokenizer_json(), n_vocab=self.size, eos_token=sorted(self.end_token_ids)
            )
        except ValueError as error:
            reason = f"constraints and log-probabilities need the bytes of this model's tokens: {error}"
            raise UnsupportedModelError(reason) from error

    def warm_up(self) -> None:
        """Build what is otherwise built on first use, in the middle of everybody's answers.

        Raises `UnsupportedModelError`.
        """
        _ = self.trie

    def token_bytes(self, token_id: int) -> bytes:
        """A token alone need not be valid UTF-8; special tokens give their names."""
        return self.trie.decode_bytes([token_id])
