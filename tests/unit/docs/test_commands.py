"""Commands that the pages name exist, with their options. Whether they work is tested page by page."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

from backend.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
OWN = re.compile(r"(?:^|[\s/(])loraledger (?=[a-z])(.*)")
COMPOSE = re.compile(r"\bdocker compose (.*)")
CONTAINER = re.compile(r"^kubectl exec (?:market|restored)-0 --container (\S+) -- loraledger ")
MODULE = re.compile(r"python -m ((?:benchmarks|tools|tests|inference|backend|workers)[\w.]*)")
TARGET = re.compile(r"^(?:[A-Z]+=\S+ )?make ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)")


def scripts(page: Path) -> Iterator[str]:
    """Lines of code blocks for a shell, and code within sentences."""
    text = page.read_text()
    for language, block in BLOCK.findall(text):
        if language in {"", "sh", "console"}:
            yield from map(str.strip, block.replace("\\\n", " ").splitlines())
    yield from SPAN.findall(BLOCK.sub("", text))


def commands(page: Path) -> Iterator[str]:
    """The commands of each line: what pipes, lists and substitutions separate."""
    for line in scripts(page):
        for part in re.split(r"\||;|&&|\$\(|\bdo\b", line):
            yield part.strip().removesuffix("&").strip()


def compose_commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of `docker compose`, up to a redirection or the next command."""
    for line in scripts(page):
        if match := COMPOSE.search(line):
            words = shlex.shlex(match[1], posix=True, punctuation_chars=True)
            words.whitespace_split = True
            yield list(itertools.takewhile(lambda word: word[0] not in "();<>|&", words))


def unknown(arguments: str) -> str:
    """What of the arguments of `loraledger` does not exist; empty if all does."""
    words = shlex.split(arguments.rstrip(")"), comments=True)
    node = _program()
    while words and words[0] in getattr(node, "commands", {}):
        node = node.commands[words.pop(0)]
    if hasattr(node, "commands") and words and not words[0].startswith("-"):
        return f"command {words[0]}"
    options = {name for each in node.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in words[: words.index("--") if "--" in words else None]]
    return next((f"option {word}" for word in given if word.startswith("--") and word not in options), "")


@cache
def _program() -> Any:
    return get_command(app)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_loraledger_exist(page: Path) -> None:
    found = [match[1] for command in commands(page) if (match := OWN.search(command))]
    assert {arguments: unknown(arguments) for arguments in found if unknown(arguments)} == {}


def test_an_unknown_command_or_option_is_found() -> None:
    assert unknown("operator bases --wait") == "command bases"
    assert unknown("operator base --price 1 2") == "option --price"
    assert unknown("engine --replica 2 -- --any-option") == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_and_modules_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for line in commands(page) if (match := TARGET.match(line)) for target in match[1].split()
    }
    assert named <= targets
    modules = {module.rstrip(".") for line in scripts(page) for module in MODULE.findall(line)}
    assert {module for module in modules if importlib.util.find_spec(module) is None} == set()


def test_containers_are_those_of_the_files_and_run_commands_that_exist() -> None:
    services = yaml.safe_load((ROOT / "deployments/compose/compose.yaml").read_text())["services"]
    profiles = {profile for each in services.values() for profile in each.get("profiles", ())}
    values = yaml.safe_load((ROOT / "deployments/chart/values.yaml").read_text())
    path = ROOT / "docs" / "containers.md"
    runs = list(compose_commands(path))
    assert len(runs) > 15
    for words in runs:
        if words[0] == "--profile":
            assert words[1] in profiles
        service = next((word for word in words[1:] if word in services), "")
        if words[0] in {"exec", "run", "start", "stop"}:
            assert service or words == ["stop"]
        if words[:3] == ["run", "--rm", "--no-deps"]:
            assert words[3] == service
            assert unknown(shlex.join(words[4:])) == ""
    page = list(commands(path))
    named = {match[1] for line in page if (match := CONTAINER.match(line))}
    assert named
    assert named <= {"engine", *values["processes"]}
    helm = [word for line in page if line.startswith("helm ") for word in shlex.split(line)]
    keys = {word.partition("=")[0] for word in helm if "=" in word}
    assert keys
    assert keys <= values.keys()


def test_a_restore_starts_nothing_that_signs_receipts_before_their_key_is_retired() -> None:
    """`settle` would sign charges whose receipts the lost installation has signed with other shares."""
    path, signing = ROOT / "docs" / "containers.md", {"api", "settle", "worker"}
    (scaled,) = [words for words in compose_commands(path) if "--scale" in words]
    assert {word for word in scaled if "=" in word} == {f"{name}=0" for name in signing}
    restore = path.read_text().partition("## Restore")[2].partition("\n## ")[0]
    started = [yaml.safe_load(line)["processes"] for line in re.findall(r"`(processes: .*?)`", restore)]
    assert started
    assert all(signing.isdisjoint(names) for names in started)


def test_values_of_the_chart_that_the_page_sets_exist() -> None:
    schema = json.loads((ROOT / "deployments/chart/values.schema.json").read_text())
    page = (ROOT / "docs" / "containers.md").read_text()
    blocks = [yaml.safe_load(block) for language, block in BLOCK.findall(page) if language == "yaml"]
    given = [block for block in blocks if "services" not in block]
    assert len(given) > 2
    for values in given:
        jsonschema.validate(values, schema)
