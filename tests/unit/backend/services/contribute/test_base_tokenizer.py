from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from backend.domain.errors import InvalidInput
from backend.services.contribute.base_tokenizer import TOKENIZER_FILE, count_tokens, decode_tokens

if TYPE_CHECKING:
    from pathlib import Path


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(folder / TOKENIZER_FILE))


def test_tokens_are_those_of_the_folders_tokenizer_without_special_ones(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert count_tokens(tmp_path, ["a b c"] * 250) == 750


def test_a_folder_without_a_fast_tokenizer_has_no_count(tmp_path: Path) -> None:
    assert count_tokens(tmp_path, ["a"]) is None
    assert decode_tokens(tmp_path, [(1,)]) is None


def test_answers_are_decoded_without_special_tokens(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert decode_tokens(tmp_path, [(0, 1, 2), (2,)]) == ["a b", "b"]
    for unknown in (4, -1, 1 << 40):
        with pytest.raises(InvalidInput, match="not below 4"):
            decode_tokens(tmp_path, [(unknown,)])
