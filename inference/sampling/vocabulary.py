"""Vocabulary of the model: the bytes of its tokens, for log-probabilities and grammars."""

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
            return LLTokenizer(
                self._tokenizer_json(), n_vocab=self.size, eos_token=sorted(self.end_token_ids)
            )
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
