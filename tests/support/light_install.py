"""An environment with the project's wheel and what it requires, and nothing else.

Required packages are links to those of the environment that runs the tests, so that no index is asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from backend.chain.local_node import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class LightInstall:
    """`folder` is a virtual environment without pip. Without `extras` it is the light install."""

    def __init__(self, folder: Path, wheel: Path, extras: frozenset[str] = frozenset()) -> None:
        self.wheel = wheel
        self.bin = folder / "bin"
        venv.create(folder, symlinks=True)
        (self._packages,) = folder.glob("lib/python*/site-packages")
        install = ("install", "--quiet", "--no-deps", "--no-compile", str(wheel))
        _run(sys.executable, "-m", "pip", "--python", str(self.bin / "python"), *install)
        (self.own,) = Distribution.discover(name="loraledger", path=[str(self._packages)])
        self.required = _closure(self.own, extras)
        for each in self.required.values():
            self.link(each)

    @property
    def num_bytes(self) -> int:
        """Size of all files without bytecode, which Python writes when a module is first imported."""
        found = [self.own, *self.required.values()]
        return sum(path.stat().st_size for each in found for path in _files(each))

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, outside the source tree and without this process's settings."""
        program, *rest = arguments
        return subprocess.run(
            [str(self.bin / program), *rest],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.bin,
            env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "HOME": str(self.bin), **(environment or {})},
        )

    def link(self, found: Distribution) -> None:
        """Add a distribution of the environment that runs the tests."""
        for name in {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}:
            path = self._packages / name
            if not path.exists():
                path.symlink_to(str(found.locate_file(name)))


def build_wheel(folder: Path) -> Path:
    """Run `make wheel` on a copy of the sources, with this environment's build backend."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]:
        name = pattern.removesuffix("*")
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    _run("make", "wheel", f"PYTHON={sys.executable}", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def _closure(root: Distribution, extras: frozenset[str]) -> dict[str, Distribution]:
    """All that a distribution requires with these extras, by name."""
    found: dict[str, Distribution] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    waiting = [(root, extras)]
    while waiting:
        for each in set(_required(*waiting.pop())) - done:
            name, more = each
            done.add(each)
            is_root = name == root.name
            if not is_root:
                found[name] = distribution(name)
            waiting.append((root if is_root else found[name], more))
    return found


def _required(of: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for requirement in map(Requirement, of.requires or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            name = requirement.name.lower().replace("_", "-").replace(".", "-")
            yield name, frozenset(requirement.extras)


def _files(found: Distribution) -> Iterator[Path]:
    for path in found.files or ():
        located = Path(str(found.locate_file(path)))
        if located.suffix != ".pyc" and located.is_file():
            yield located


def _run(*arguments: str, cwd: Path | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
