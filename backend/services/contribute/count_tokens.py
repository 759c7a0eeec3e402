"""Counts tokens with the base model's tokenizer, without torch."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

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


@cache
def _tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))
