from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.training import TrainingConfig
from backend.installation import tokenizer
from backend.installation.tokenizer import TokenizerFailed, TokenizerProcess
from tests.fixtures_engine import make_model

if TYPE_CHECKING:
    from pathlib import Path

ROWS: Any = [(3, {"prompt": "Hi?", "completion": "Yes."})]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def test_a_child_process_tokenises_rows(base: Path, tmp_path: Path) -> None:
    found = TokenizerProcess(str(base), tmp_path).tokenise(ROWS, TrainingConfig(), 1)
    assert (found.num_usable, found.num_cut, found.num_tokens, found.num_trained) == (1, 0, 11, 5)
    assert found.examples[0].contribution == 3
    assert found.examples[0].is_trained == [False] * 6 + [True] * 5


def test_a_process_that_dies_or_hangs_is_an_error(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TokenizerFailed):
        TokenizerProcess(str(base), tmp_path, seconds=0.01).tokenise(ROWS, TrainingConfig(), 1)
    monkeypatch.setattr(tokenizer, "CHILD", "no_such_module")
    with pytest.raises(TokenizerFailed):
        TokenizerProcess(str(base), tmp_path).tokenise(ROWS, TrainingConfig(), 1)
