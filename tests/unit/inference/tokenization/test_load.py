from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from transformers import AutoTokenizer

from inference.tokenization.load import load_tokenizer
from tests.fixtures_engine import CHAT_TEMPLATE

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES = [{"role": "user", "content": "a?"}]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("%d %b %Y", "26 Jul 2024"),  # Llama 3.2
        ("%d %B %Y", "26 July 2024"),  # SmolLM3
        ("%Y-%m-%d", "2024-07-26"),
        ("%A, %-d.%-m.%y %H:%M:%S", "Friday, 26.7.24 00:00:00"),
        ("%a %-I %p %T %Z", "Fri 12 AM 00:00:00 UTC"),
    ],
)
def test_a_template_that_writes_the_date_always_writes_the_same(
    tiny_llama: Path, tmp_path: Path, form: str, expected: str
) -> None:
    template = (
        "\n{% if strftime_now is defined %}{% set today = strftime_now('"
        + form
        + "') %}{% endif %}{{ today }}"
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.chat_template = template + CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    rendered = load_tokenizer(tmp_path).apply_chat_template(MESSAGES, tokenize=False)
    tokenizer.chat_template = f"\n{expected}" + CHAT_TEMPLATE
    assert rendered == tokenizer.apply_chat_template(MESSAGES, tokenize=False)


def test_each_of_several_templates_writes_the_same_date(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    dated = "{{ strftime_now(format='%Y') }}"
    tokenizer.chat_template = {"default": dated, "tool_use": dated}
    tokenizer.save_pretrained(tmp_path)
    rendered = load_tokenizer(tmp_path).apply_chat_template(MESSAGES, tokenize=False)
    assert rendered == "2024"


def test_other_templates_stay_as_they_are(tiny_llama: Path) -> None:
    assert load_tokenizer(tiny_llama).chat_template == CHAT_TEMPLATE
