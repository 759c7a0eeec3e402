"""Helpers of the contract checks: the folder under build/, installed tools, the compiler."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "checks"
NODE = ROOT / "node_modules" / ".bin" / "node"


def fail(text: str) -> NoReturn:
    """End the check with `text` on the error stream and exit status 1."""
    sys.stdout.flush()
    sys.exit(text)


def tool(name: str, folder: Path = HERE) -> Path:
    """Return the folder with the programs of a pinned tool, installed in a separate environment if missing.
    `<folder>/<name>.lock` pins its packages.

    Slither and Halmos pin packages of which the project needs other versions, so they cannot be in .venv.
    """
    lock = folder / f"{name}.lock"
    venv = BUILD / f"venv-{name}"
    stamp = venv / "installed.lock"
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        print(f"{name}: installing Python packages in {venv.relative_to(ROOT)}", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(venv)])
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--no-deps", "-r", str(lock)])
        stamp.write_text(lock.read_text())
    return venv / "bin"


def compile_contracts(form: str, out: Path, *folders: str) -> None:
    """Compile the Solidity sources in `folders`; `form` is an output format of `solc.mjs`."""
    _run([str(NODE), str(HERE / "solc.mjs"), form, str(out), *folders])


def isolated(venv: Path) -> dict[str, str]:
    """Return environment variables for a tool's program, without those of the project's environment."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return inherited | {
        "PATH": f"{venv}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(venv.parent),
    }


class Clock:
    """Stopwatch that formats the seconds since its creation."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __str__(self) -> str:
        return f"{time.monotonic() - self._start:.0f} s"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode != 0:
        fail(f"failed with status {done.returncode}: {' '.join(command)}")
