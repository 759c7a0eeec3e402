from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from workers.training.index import hidden_index
from workers.training.rows import IGNORED, Example, last_answer
from workers.training.tensors import canonical_safetensors

if TYPE_CHECKING:
    from pathlib import Path

METADATA = {"version": "2", "lambda": "1.0", "sketch_seed": "7"}


def labelled(*is_trained: bool) -> Example:
    ids = tuple(range(10, 10 + len(is_trained)))
    labels = tuple(token if trained else IGNORED for token, trained in zip(ids, is_trained, strict=True))
    return Example(0, "g", ids, labels)


def test_prompt_and_answer_meet_where_the_last_answer_begins() -> None:
    assert last_answer(labelled(False, False, True, True)) == ((10, 11), (12, 13))
    assert last_answer(labelled(False, True, False, True, True, False)) == ((10, 11, 12), (13, 14))


def test_plain_text_keeps_one_token_as_its_prompt() -> None:
    assert last_answer(labelled(True, True, True)) == ((10,), (11, 12))


def test_vectors_point_from_the_centre_to_their_contribution() -> None:
    index = hidden_index(torch.tensor([[2.0, 0.0], [0.0, 1.0], [4.0, 0.0], [0.0, -1.0]]), [3, 1, 3, 1])
    assert index["positions"].tolist() == [1, 3]
    assert index["positions"].dtype == torch.int64
    assert index["rows"].tolist() == [2, 2]
    assert index["hidden.centre"].tolist() == [1.5, 0.0]
    assert index["hidden.vectors"][1].tolist() == pytest.approx([1.0, 0.0])
    assert index["hidden.vectors"][0].tolist() == pytest.approx([-1.0, 0.0])


@given(counts=st.lists(st.integers(1, 5), min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_each_row_has_the_same_weight_for_any_size_of_its_state(counts: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    contributions = [position for position, count in enumerate(counts) for _ in range(count)]
    states = torch.randn(len(contributions), 8)
    index = hidden_index(states, contributions)
    assert index["hidden.vectors"].norm(dim=-1).tolist() == pytest.approx([1.0] * len(counts), abs=1e-5)
    scaled = hidden_index(5 * states, contributions)
    assert torch.allclose(scaled["hidden.vectors"], index["hidden.vectors"], atol=1e-4)


def test_the_file_has_one_spelling(tmp_path: Path) -> None:
    index = hidden_index(torch.cat([torch.eye(3), -torch.eye(3)]), [0, 0, 0, 1, 1, 1])
    content = canonical_safetensors(index, METADATA)
    header = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip().decode()
    assert header == json.dumps(json.loads(header), sort_keys=True, separators=(",", ":"))
    path = tmp_path / "index.safetensors"
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == METADATA
        assert torch.equal(file.get_tensor("hidden.vectors"), index["hidden.vectors"])
