"""Counts and decodes tokens with the base model's tokenizer, without torch."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
TEXTS_AT_ONCE = 100


def count_tokens(folder: Path, texts: Sequence[str]) -> int | None:
    """Total of all texts, without a chat template; None if `folder` has no fast tokenizer."""
    path = folder / TOKENIZER_FILE
    if not path.exists():
        return None
    tokenizer = _tokenizer(path)
    parts = (texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE))
    batches = (tokenizer.encode_batch_fast(list(part), add_special_tokens=False) for part in parts)
    return sum(len(encoding) for batch in batches for encoding in batch)


def decode_tokens(folder: Path, answers: Sequence[Sequence[int]]) -> list[str] | None:
    """Texts of token ids without special tokens; None if `folder` has no fast tokenizer.

    Errors: `InvalidInput` if an id is none of the tokenizer's.
    """
    path = folder / TOKENIZER_FILE
    if not path.exists():
        return None
    tokenizer = _tokenizer(path)
    size = tokenizer.get_vocab_size()
    if any(not 0 <= token < size for answer in answers for token in answer):
        raise InvalidInput(f"a token id is not below {size}, the size of the base model's vocabulary")
    return tokenizer.decode_batch([list(answer) for answer in answers], skip_special_tokens=True)


@cache
def _tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))
