"""Other programs import the client: it must not bring an installation along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import backend.client

HEAVY = ("web3", "sqlalchemy", "torch", "fastapi", "starlette", "typer", "coincurve", "numpy", "requests")


def test_the_client_imports_nothing_heavy() -> None:
    names = sorted(path.stem for path in Path(backend.client.__file__).parent.glob("[a-z]*.py"))
    imports = "\n".join(f"import backend.client.{name}" for name in names)
    code = f"import sys\n{imports}\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "signing" in names
    assert found.stdout.strip() == "[]"
