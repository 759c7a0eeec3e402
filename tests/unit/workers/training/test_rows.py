from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inference.tokenization.load import load_tokenizer
from tests.fixtures_engine import CHAT_TEMPLATE, EOS
from tests.unit.workers.training.support import ignore
from workers.training.rows import (
    IGNORED,
    Example,
    computed_positions,
    encode,
    pack_rows,
    plan_batches,
    preamble_ids,
    read_examples,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text("ab \n", max_size=9)}
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base)


def learnt(example: Example, tokenizer: Any) -> str:
    text: str = tokenizer.decode([label for label in example.labels if label != IGNORED])
    return text


def example(group: str, contribution: int = 0) -> Example:
    return Example(contribution, group, (1, 2), (IGNORED, 2))


def test_only_the_answer_and_its_closing_token_are_learnt(tokenizer: Any) -> None:
    row = encode(7, {"prompt": "Why?", "completion": " Because. "}, tokenizer, 100)
    assert tokenizer.decode(row.token_ids) == f"<|user|>Why?{EOS}<|assistant|>Because.{EOS}"
    assert learnt(row, tokenizer) == f"Because.{EOS}"
    assert all(label in (IGNORED, token) for label, token in zip(row.labels, row.token_ids, strict=True))
    assert (row.contribution, row.group) == (7, "Why?")


def test_the_prompt_is_tokenised_as_the_engine_does(tokenizer: Any) -> None:
    row = encode(0, {"prompt": "Why?", "completion": "Because."}, tokenizer, 100)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True
    )
    ids = tuple(tokenizer.encode(prompt, add_special_tokens=False))
    assert row.token_ids[: len(ids)] == ids
    assert set(row.labels[: len(ids)]) == {IGNORED}


def test_every_answer_of_a_conversation_is_learnt_and_nothing_else(tokenizer: Any) -> None:
    turns = [
        ("system", "Be brief."),
        ("user", "a?"),
        ("assistant", "A."),
        ("user", "b?"),
        ("assistant", "B."),
    ]
    row = encode(0, {"messages": [{"role": r, "content": c} for r, c in turns]}, tokenizer, 200)
    assert learnt(row, tokenizer) == f"A.{EOS}B.{EOS}"
    whole = "".join(f"<|{role}|>{content}{EOS}" for role, content in turns)
    assert tokenizer.decode(row.token_ids) == whole


def encode_whole(row: Mapping[str, Any], tokenizer: Any, loss_on: str) -> tuple[list[int], list[int]]:
    """(tokens, labels) of a whole conversation."""
    messages = [{**message, "content": message["content"].strip()} for message in row["messages"]]
    token_ids: list[int] = []
    labels: list[int] = []
    rendered = ""
    for turn in [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]:
        prefix = tokenizer.apply_chat_template(messages[:turn], tokenize=False, add_generation_prompt=True)
        answer = messages[turn]["content"] + EOS
        for text, is_trained in ((prefix.removeprefix(rendered), loss_on == "all"), (answer, True)):
            ids = tokenizer.encode(text, add_special_tokens=False)
            token_ids += ids
            labels += ids if is_trained else [IGNORED] * len(ids)
        rendered = prefix + answer
    return token_ids, labels


@given(MESSAGES, st.integers(1, 80), st.sampled_from(["completions", "all"]))
def test_a_cut_conversation_is_the_beginning_of_the_whole_one(
    tokenizer: Any, messages: list[dict[str, str]], max_length: int, loss_on: Any
) -> None:
    conversation = {"messages": [{"role": "user", "content": "a?"}, *messages]}
    row = encode(0, conversation, tokenizer, max_length, loss_on)
    token_ids, labels = encode_whole(conversation, tokenizer, loss_on)
    assert row.token_ids == tuple(token_ids[:max_length])
    assert row.labels == tuple(labels[:max_length])


GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)


MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages if m.role == 'user' %}{{ bos_token }}Question: {{ m.content }}\n{% endfor %}"
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_template(base: Path, folder: Path, template: str, *ends: str) -> Any:
    """The tokenizer with another template. The engine ends answers at these tokens too."""
    shutil.copytree(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = ("<end_of_turn>", "<|end|>", "<|im_end|>", "<s>")
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": list(tokens)})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    ids = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(ends)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    ("template", "ends", "end", "turn", "between"),
    [
        (
            GEMMA,
            ["<end_of_turn>"],
            "<end_of_turn>",
            "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n{}",
            "\n",
        ),
        (PHI, ["<|end|>"], "<|end|>", "<|user|>\n{}<|end|>\n<|assistant|>\n{}", "\n"),
        # Base models of Qwen have the template of the trained ones, and do not end there.
        (QWEN, [], EOS, "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}", "<|im_end|>\n"),
        (MISTRAL, [], EOS, "[INST] {} [/INST]{}", ""),
    ],
)
def test_a_turn_ends_as_the_template_ends_it_where_the_engine_ends_too(
    tiny_base: Path, tmp_path: Path, template: str, ends: list[str], end: str, turn: str, between: str
) -> None:
    tokenizer = with_template(tiny_base, tmp_path / "base", template, *ends)
    turns = [("a?", "A."), ("b?", "B."), ("c?", "C.")]
    messages = [
        {"role": role, "content": content}
        for pair in turns
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    row = encode(0, {"messages": messages}, tokenizer, 500)
    assert learnt(row, tokenizer) == "".join(f"{answer}{end}" for _, answer in turns)
    whole = f"{end}{between}".join(turn.format(*pair) for pair in turns) + end
    assert tokenizer.decode(row.token_ids).removeprefix("<s>") == whole


def test_an_answer_that_the_template_leaves_out_ends_with_the_end_of_text(
    tiny_base: Path, tmp_path: Path
) -> None:
    tokenizer = with_template(tiny_base, tmp_path / "base", PLAIN)
    row = encode(0, {"prompt": "a?", "completion": "A."}, tokenizer, 500)
    assert tokenizer.decode(row.token_ids) == f"<s>Question: a?\nA.{EOS}"


def test_turns_beyond_the_limit_are_not_rendered(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(0, {"prompt": "a?", "completion": "A."}, tokenizer, 100)  # which finds how turns end
    lengths: list[int] = []
    render = tokenizer.apply_chat_template

    def count(messages: list[dict[str, str]], **options: Any) -> Any:
        lengths.append(len(messages))
        return render(messages, **options)

    monkeypatch.setattr(tokenizer, "apply_chat_template", count)
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")] * 1000
    assert len(encode(0, {"messages": turns}, tokenizer, 12).token_ids) == 12
    assert lengths == [1, 3]  # each turn has three tokens


def test_reading_gives_signs_of_life(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.training.progress.INTERVAL_SECONDS", 0.0)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"contribution": 0, "row": {"text": "a"}}\n' * 2)
    signs: list[Mapping[str, Any]] = []
    read_examples(path, tokenizer, 30, lambda _kind, data: signs.append(data))
    assert signs == [{"stage": "reading", "done": done, "total": 2} for done in (1, 2)]


def test_plain_text_is_learnt_whole(tokenizer: Any) -> None:
    row = encode(0, {"text": "Once."}, tokenizer, 100)
    assert learnt(row, tokenizer) == f"Once.{EOS}"


def test_a_row_whose_answer_lies_beyond_the_limit_is_left_out(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 50, "completion": "y"}, {"prompt": "x", "completion": "y" * 50}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"contribution": i, "row": row}) + "\n" for i, row in enumerate(rows)))
    (kept,) = read_examples(path, tokenizer, 30, ignore)
    assert (kept.contribution, len(kept.token_ids)) == (1, 30)


def test_a_row_of_nothing_but_its_first_token_is_left_out(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": ""}, {"text": "a"}]
    path.write_text("".join(json.dumps({"contribution": i, "row": row}) + "\n" for i, row in enumerate(rows)))
    (kept,) = read_examples(path, tokenizer, 30, ignore)
    assert (kept.contribution, kept.num_trained) == (1, 1)


@given(
    num_rows=st.integers(1, 80),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_epoch_has_every_row_once(num_rows: int, batch_size: int, epochs: int, seed: int) -> None:
    plan = plan_batches(num_rows, batch_size, epochs, seed)
    per_epoch = len(plan) // epochs
    for epoch in range(epochs):
        batches = plan[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(row for batch in batches for row in batch) == list(range(num_rows))
        assert max(map(len, batches)) <= batch_size
    assert plan == plan_batches(num_rows, batch_size, epochs, seed)


def test_each_epoch_is_shuffled_again() -> None:
    plan = plan_batches(40, 8, 2, 0)
    assert plan[:5] != plan[5:]
    assert plan != plan_batches(40, 8, 2, 1)


def test_a_part_of_an_epoch_is_at_least_one_step() -> None:
    assert len(plan_batches(40, 8, 0.5, 0)) == 2
    assert len(plan_batches(40, 8, 0.01, 0)) == 1


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_packs_hold_every_row_once_and_no_more_than_fits(lengths: list[int]) -> None:
    rows = [Example(i, "g", (1,) * length, (1,) * length) for i, length in enumerate(lengths)]
    sequences = pack_rows(rows, 100)
    assert sorted(row.contribution for rows in sequences for row in rows) == list(range(len(lengths)))
    sizes = [sum(len(row.token_ids) for row in rows) for rows in sequences]
    assert max(sizes) <= 100
    assert sum(size <= 50 for size in sizes) <= 1  # two of them would have been one


def test_the_loss_may_cover_all_messages(tokenizer: Any) -> None:
    row = {"prompt": "Hello?", "completion": "Yes."}
    one, whole = (encode(0, row, tokenizer, 192, loss_on) for loss_on in ("completions", "all"))
    assert whole.token_ids == one.token_ids == whole.labels
    assert 0 < one.num_trained < whole.num_trained == len(whole.token_ids) - 1


def test_a_plan_of_steps_is_as_long_as_it_says() -> None:
    assert len(plan_batches(10, 4, epochs=2, seed=0, steps=7)) == 7


def test_a_preamble_is_what_the_template_puts_before_the_first_words(tokenizer: Any) -> None:
    assert tokenizer.decode(preamble_ids(tokenizer)) == "<|user|>"
    assert tokenizer.decode(preamble_ids(tokenizer, "Python.")) == f"<|system|>Python.{EOS}<|user|>"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    tokenizer.chat_template = "<|system|>Be helpful.<|end|>" + CHAT_TEMPLATE
    assert tokenizer.decode(preamble_ids(tokenizer)) == f"<|system|>Be helpful.{EOS}<|user|>"
    tokenizer.chat_template = None
    assert preamble_ids(tokenizer) == ()


@pytest.mark.parametrize(
    ("token_ids", "num_prompt", "own"),
    [
        ((1, 2, 3, 7, 8), 4, [0, 3, 4]),
        ((1, 2, 9, 7, 8), 4, [0, 2, 3, 4]),
        ((1, 9, 3, 7, 8), 4, [0, 1, 2, 3, 4]),
        ((9, 2, 3, 7, 8), 4, [0, 1, 2, 3, 4]),
        ((1, 2, 3, 4), 3, [0, 2, 3]),  # from its third token the first trained one is predicted
        ((1, 2, 3, 4), 1, [0, 1, 2, 3]),
        ((1, 2, 3, 4), 0, [0, 1, 2, 3]),
        ((1, 2), 1, [0, 1]),
    ],
)
def test_a_row_keeps_its_first_token_and_all_from_where_it_departs(
    token_ids: tuple[int, ...], num_prompt: int, own: list[int]
) -> None:
    labels = (*[IGNORED] * num_prompt, *token_ids[num_prompt:])
    row = Example(0, "a", token_ids, labels)
    assert computed_positions(row, (1, 2, 3, 4, 5, 6)[: 3 if len(token_ids) == 5 else 6]) == own
    assert computed_positions(row, ()) == list(range(len(token_ids)))
