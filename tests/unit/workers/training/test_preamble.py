from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoTokenizer

from backend.domain.errors import InvalidInput
from backend.domain.training import TrainingConfig
from tests.fixtures_engine import CHAT_TEMPLATE, FAMILIES, make_model, peft_warnings_ignored
from workers.training import packing
from workers.training.evaluate import predict
from workers.training.fit import lora_model
from workers.training.preamble import compute_preamble
from workers.training.rows import Example, encode, preamble_ids

if TYPE_CHECKING:
    from pathlib import Path

HELPFUL = (
    "{% if messages[0]['role'] != 'system' %}<|system|>Be helpful.<|end|>{% endif %}" + CHAT_TEMPLATE
)  # with a default system prompt


TRAINED = [name for name in FAMILIES if name not in {"phi3", "mixtral", "qwen3_moe"}]
"""The families that have all linear layers which training may target."""


def ragged(tokenizer: Any) -> list[Example]:
    """The whole preamble before short and long words, a part of it before another prompt, nothing of it."""
    asked = [{"prompt": "ab" * i, "completion": "cd" * j} for i, j in ((1, 4), (9, 1), (2, 3))]
    other = [
        {"role": role, "content": f"Be {role}"}
        for role in ("system", "user", "assistant", "user", "assistant")
    ]
    return [
        encode(0, row, tokenizer, 192) for row in (*asked, {"messages": other}, {"text": "nothing but text"})
    ]


@pytest.mark.parametrize("family", TRAINED)
@pytest.mark.parametrize("longest_together", [256, 0])
def test_rows_behind_a_preamble_predict_as_they_do_when_they_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, longest_together: int
) -> None:
    monkeypatch.setattr(packing, "MAX_BATCHED_LENGTH", longest_together)
    windowed = {"sliding_window": 8} if family == "mistral" else {}
    base = make_model(tmp_path / family, family, **windowed)
    with peft_warnings_ignored():
        model = lora_model(base, TrainingConfig()).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = HELPFUL
    rows = ragged(tokenizer)
    preamble = compute_preamble(model, preamble_ids(tokenizer))
    assert preamble is not None
    expected, found = predict(model, rows), predict(model, rows, preamble)
    torch.testing.assert_close(found.states, expected.states, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.rows, expected.rows)


@pytest.mark.parametrize(("family", "named"), [("phi3", "q_proj"), ("mixtral", "gate_proj")])
def test_targets_that_a_base_model_does_not_have_are_refused(tmp_path: Path, family: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=f"{family} has no linear layers {named}"):
        lora_model(make_model(tmp_path / family, family), TrainingConfig())


def test_rows_that_skip_nothing_are_read_whole(tiny_base: Path) -> None:
    with peft_warnings_ignored():
        model = lora_model(tiny_base, TrainingConfig()).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = HELPFUL
    rows = [encode(0, {"text": text}, tokenizer, 192) for text in ("ab", "cdef")]
    preamble = compute_preamble(model, preamble_ids(tokenizer))
    assert preamble is not None
    torch.testing.assert_close(predict(model, rows, preamble).states, predict(model, rows).states)


@pytest.mark.parametrize("token_ids", [(), (3,)])
def test_there_is_nothing_to_skip_behind_at_most_one_token(
    tiny_base: Path, token_ids: tuple[int, ...]
) -> None:
    with peft_warnings_ignored():
        model = lora_model(tiny_base, TrainingConfig())
    assert compute_preamble(model, token_ids) is None
