"""Verdicts of the project's check of a change."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "run"


def runs(folder: Path, make: str, audit: str) -> subprocess.CompletedProcess[str]:
    """The script in a folder where these shell commands stand for `make` and for the audit."""
    commands = {"bin/make": f"echo make $1; {make}", ".venv/bin/python": audit}
    for name, command in commands.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)
    (folder / ".ci").mkdir()
    shutil.copy(SCRIPT, folder / ".ci" / "run")
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
    return subprocess.run(
        [folder / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("audit", "status", "is_warned"),
    [("true", 0, False), ("echo CVE-1; exit 1", 1, False), ("exit 2", 0, True)],
)
def test_a_vulnerability_fails_a_change_and_a_silent_registry_warns(
    tmp_path: Path, audit: str, status: int, is_warned: bool
) -> None:
    done = runs(tmp_path, "true", audit)
    assert done.returncode == status
    assert done.stdout.splitlines()[:3] == ["make lint", "make test", "make demo"]
    assert ("CVE-1" in done.stdout) == (status == 1)
    assert ("NOT AUDITED" in done.stderr) == is_warned


def test_the_first_failure_ends_the_check(tmp_path: Path) -> None:
    done = runs(tmp_path, "[ $1 = lint ]", "sleep 60")
    assert done.returncode != 0
    assert done.stdout.splitlines() == ["make lint", "make test"]
