from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from backend.services.contribute.count_tokens import TOKENIZER_FILE, count_tokens

if TYPE_CHECKING:
    from pathlib import Path


def test_tokens_are_those_of_the_folders_tokenizer_without_special_ones(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])  # type: ignore[assignment]
    tokenizer.save(str(tmp_path / TOKENIZER_FILE))
    assert count_tokens(tmp_path, ["a b c"] * 250) == 750


def test_a_folder_without_a_fast_tokenizer_has_no_count(tmp_path: Path) -> None:
    assert count_tokens(tmp_path, ["a"]) is None
