from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from tests.support.contributions import ROWS, jsonl

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORALEDGER_HOME", str(tmp_path / "home"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", *arguments])


def test_a_valid_file_is_reported_with_its_contents(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    result = run("validate", str(path), "--licence", "mit")
    assert result.exit_code == 0
    assert "2 valid rows of instruct, 0 defects, licence MIT" in result.output
    assert "rows by characters: up to 15 1, up to 31 1" in result.output
    assert "tokens" not in result.output, "no base model was prepared in this home"


def test_defects_are_listed_by_line_and_the_exit_code_is_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl({"prompt": 1, "completion": "b"}) + b"nope\n" * 200)
    result = run("validate", str(path), "--licence", "MIT")
    assert result.exit_code == 1
    assert "line 1, prompt: must be a string, not a number [wrong_type]" in result.output
    assert "... and 101 more; in all 1 wrong_type, 200 malformed_json" in result.output
    assert "no valid row, 201 defects" in result.output


def test_a_file_in_another_format_is_told_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\na,b\n")
    result = run("validate", str(path), "--licence", "MIT")
    assert "no line is JSON: a file is JSON Lines or Parquet, see docs/contributing-data.md" in result.output


def test_near_duplicates_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    text = "Returns the number of items in the list, or zero if there are none at all."
    path.write_bytes(jsonl({"text": text}, {"text": text.upper()}))
    result = run("validate", str(path), "--licence", "MIT")
    assert "near-duplicate rows: 1 in this upload, 0 in the datanet" in result.output
    assert "line 2: 100 % line 1 by 0x" in result.output


def test_the_report_is_printed_as_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"[1]\n")
    result = run("validate", str(path), "--licence", "MIT", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["defect_counts"] == {"not_an_object": 1}


def test_tokens_are_counted_if_a_base_model_was_prepared(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    home = tmp_path / "home"
    home.mkdir()
    tokenizer.save(str(home / "tokenizer.json"))
    (home / "base_model.json").write_text(json.dumps({"name": "n", "digest": "d", "folder": str(home)}))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl({"text": "one two three"}))
    assert "\n3 tokens of the base model" in run("validate", str(path), "--licence", "MIT").output


def test_a_command_that_needs_the_stack_says_how_to_start_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    for arguments in (["push", str(path), "--datanet", "1", "--licence", "MIT"], ["status"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "loraledger up" in str(result.exception)
