from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workers.training.spec import ADAPTER, RESULT_FILE, adapter_draft, write_result

if TYPE_CHECKING:
    from pathlib import Path


def test_a_draft_becomes_the_adapter_only_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(_: int) -> None:
        raise OSError("power cut")

    draft = adapter_draft(tmp_path)
    monkeypatch.setattr("os.fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_result(draft, "card", {"adapter_digest": "0xad", "base_model": "0xba"}, {})
    assert not (tmp_path / ADAPTER).exists()
    assert not (tmp_path / RESULT_FILE).exists()
