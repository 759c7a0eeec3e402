from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.processes import memory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("text", "is_limited"), [("4096000\n", True), ("max\n", False)])
def test_a_container_limits_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, is_limited: bool
) -> None:
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(memory, "CGROUP_FILES", (str(tmp_path / "memory.max"), str(tmp_path / "none")))
    assert (memory.machine_memory() == 4_096_000) is is_limited
