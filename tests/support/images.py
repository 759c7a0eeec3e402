"""Reads the Dockerfile of the images, and runs the steps of a stage without Docker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instruction:
    name: str
    text: str


class Dockerfile:
    """Stages with their instructions in order. `FROM` starts a stage, and is not one of its instructions."""

    def __init__(self, path: Path) -> None:
        self.parents: dict[str, str] = {}
        self.stages: dict[str, list[Instruction]] = {}
        stage: list[Instruction] = []
        for line in _lines(path.read_text()):
            name, _, text = line.partition(" ")
            if name == "FROM":
                parent, _, alias = text.partition(" AS ")
                stage = self.stages[alias] = []
                self.parents[alias] = parent
            else:
                stage.append(Instruction(name, text.strip()))

    def all(self, target: str) -> list[Instruction]:
        """Instructions of the stage after those of the stages that it is built from."""
        inherited = self.all(self.parents[target]) if self.parents[target] in self.stages else []
        return inherited + self.stages[target]

    def last(self, target: str, name: str) -> str:
        """Text of the last instruction with this name, the one that counts; empty without one."""
        return next((each.text for each in reversed(self.all(target)) if each.name == name), "")

    def extras(self, stage: str) -> list[str]:
        """Extras of the wheel that the stage itself installs."""
        text = " ".join(each.text for each in self.stages[stage] if each.name == "RUN")
        return [extra for found in re.findall(r"\[([\w,]+)\]", text) for extra in found.split(",")]

    def run(self, target: str, context: Path, root: Path) -> None:
        """Run COPY and RUN of the target and of the stages that it copies from, with `root` for `/`.

        Only paths of the folders that the stages make themselves are mapped, so it suits stages that install
        nothing in the system.
        """
        folder = root
        for each in self.all(target):
            if each.name == "WORKDIR":
                folder = root / each.text.strip("/")
                folder.mkdir(parents=True, exist_ok=True)
            elif each.name == "COPY":
                self._copy(each.text, context, root, folder)
            elif each.name == "RUN":
                script = re.sub(r"(?<![\w.])/(?=dist\b|opt/)", f"{root}/", each.text)
                environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
                environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
                done = subprocess.run(
                    ["sh", "-euc", script],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"

    def _copy(self, text: str, context: Path, root: Path, folder: Path) -> None:
        words = text.split()
        source = re.match(r"--from=(\S+) ", text)
        if source is not None:
            if not (root / words[1].strip("/")).exists():
                self.run(source[1], context, root)
            assert words[1] == words[2]
            return
        *names, target = words
        for name in names:
            place = folder / target / name if target.endswith("/") else folder / target
            place.parent.mkdir(parents=True, exist_ok=True)
            if (context / name).is_dir():
                shutil.copytree(context / name, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(context / name, place)


def _lines(text: str) -> list[str]:
    """Instructions with their continuation lines joined, without comments."""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [line for line in kept.replace("\\\n", " ").splitlines() if line.strip()]
