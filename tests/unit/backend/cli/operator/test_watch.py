from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("options", [(), ("--challenge",), ("--once", "--no-answer")])
def test_without_an_installation_it_says_what_to_do(options: tuple[str, ...], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "backend.cli.main", "watch", *options],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LORALEDGER_HOME": str(tmp_path)},
    )
    assert result.returncode == 1
    assert "loraledger up" in result.stderr
    assert "Traceback" not in result.stderr
