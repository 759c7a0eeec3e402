"""Builds data sets from the docstrings of installed packages: real text with known source and licence.

Source files are parsed and not imported, which is fast and has no side effects. Results are deterministic for
given versions of the packages.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import sysconfig
import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from backend.domain.dataset import canonical_row
from backend.domain.errors import NotFound
from backend.services.contribute.licences import UnknownLicence, parse_licence

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDARD_LIBRARY = "python"
"""Name of the whole standard library."""
STANDARD_LICENCE = "PSF-2.0"
MIN_CHARACTERS = 24
MAX_CHARACTERS = 420
"""Length of an answer. With its question it has less than about 200 tokens."""

_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "testing",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "ensurepip",
    "site-packages",
}
_SKIPPED_MODULES = {"antigravity", "this"}
_CLASSIFIERS = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: Python Software Foundation License": STANDARD_LICENCE,
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_ROLE = re.compile(r":[a-z:]+:`~?\.*(?:_[a-z]+\.)?([^`<]+?)(?:\s*<[^`]*>)?`")
_LITERAL = re.compile(r"``([^`]+)``")
_MARKUP = re.compile(
    r"\s|\.\.|:\w|>>>|```|[-=~^*+#@|!]|(Args|Arguments|Returns|Raises|Yields|Parameters|Examples?|Usage|Note)\b",
    re.IGNORECASE,
)
"""Starts of paragraphs that are not prose: directives, fields, code, lists, headings, argument sections."""

_Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_Definition = ast.Module | _Named


class UnknownPackage(NotFound):
    """The package is not installed, or has no Python sources."""


@dataclass(frozen=True, slots=True)
class DocstringDataset:
    """Data set of one package. Rows have `prompt`, `completion` and `source`, and are sorted by source."""

    package: str
    licence: str
    rows: tuple[dict[str, str], ...]

    def lines(self) -> Iterator[bytes]:
        """JSONL, ready for upload."""
        for row in self.rows:
            yield canonical_row(row) + b"\n"


def build_dataset(package: str, max_rows: int | None = None) -> DocstringDataset:
    """Collect the docstrings of `package`: an import name, a standard module, or `STANDARD_LIBRARY`.

    Of more than `max_rows`, a deterministic sample. Errors: `UnknownPackage`, `UnknownLicence`.
    """
    answers: dict[str, str] = {}
    sources: set[str] = set()
    for name, file in _modules(package):
        for source, docstring in _documented(name, file):
            answer = clean(docstring)
            # One name per text and one text per name: inherited texts and overloads would be contradictory.
            if answer is not None and answer not in answers and source not in sources:
                answers[answer] = source
                sources.add(source)
    chosen = sorted(answers.items(), key=lambda pair: sha256(pair[1].encode()).digest())[:max_rows]
    if not chosen:
        raise UnknownPackage(f"{package} has no documented sources", "package")
    rows = ({"prompt": f"What does `{s}` do?", "completion": a, "source": s} for a, s in chosen)
    return DocstringDataset(package, licence_of(package), tuple(sorted(rows, key=lambda row: row["source"])))


def licence_of(package: str) -> str:
    """SPDX expression from the metadata of the distribution. Errors: `UnknownPackage`, `UnknownLicence`."""
    if package == STANDARD_LIBRARY or package in sys.stdlib_module_names:
        return STANDARD_LICENCE
    distributions = importlib.metadata.packages_distributions().get(package)
    if not distributions:
        raise UnknownPackage(f"{package} is not installed", "package")
    metadata = importlib.metadata.metadata(distributions[0])
    stated = [*metadata.get_all("License-Expression", []), *metadata.get_all("License", [])]
    stated += [_CLASSIFIERS.get(classifier, "") for classifier in metadata.get_all("Classifier", [])]
    for expression in stated:
        try:
            return parse_licence(expression)
        except UnknownLicence:
            continue
    raise UnknownLicence(f"the metadata of {distributions[0]} have no SPDX licence", "package")


def clean(docstring: str) -> str | None:
    """The first paragraphs as plain text; None unless they have `MIN_CHARACTERS` to `MAX_CHARACTERS`."""
    prose = ""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if _MARKUP.match(paragraph):
            break
        text = " ".join(_LITERAL.sub(r"`\1`", _ROLE.sub(r"`\1`", paragraph)).split())
        if len(prose) + 1 + len(text) > MAX_CHARACTERS:
            prose = prose or _sentences(text)
            break
        prose = f"{prose} {text}".strip()
        if text.endswith("::"):  # code follows
            prose = prose.removesuffix("::").rstrip()
            break
    return prose if len(prose) >= MIN_CHARACTERS and " " in prose else None


def _sentences(text: str) -> str:
    """As many whole sentences as fit into `MAX_CHARACTERS`."""
    end = text.rfind(". ", 0, MAX_CHARACTERS)
    return text[: end + 1]


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    """(dotted name, source file) of the public modules, in order of names."""
    if package == STANDARD_LIBRARY:
        root = Path(sysconfig.get_path("stdlib"))
        for name in sorted(sys.stdlib_module_names - _SKIPPED_MODULES - _SKIPPED_FOLDERS):
            for path in (root / name, root / f"{name}.py"):
                yield from _modules_at(name, path)
        return
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UnknownPackage(f"{package} is not installed as Python sources", "package")
    origin = Path(spec.origin)
    yield from _modules_at(package, origin.parent if spec.submodule_search_locations else origin)


def _modules_at(name: str, path: Path) -> Iterator[tuple[str, Path]]:
    if name.rpartition(".")[2].startswith("_"):
        return
    if path.suffix == ".py" and path.is_file():
        yield name, path
    elif path.is_dir() and (path / "__init__.py").exists():
        yield name, path / "__init__.py"
        for child in sorted(path.iterdir()):
            if child.stem not in _SKIPPED_FOLDERS:
                yield from _modules_at(f"{name}.{child.stem}", child)


def _documented(module: str, file: Path) -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of the module and of its public classes, functions and methods."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in their sources
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    yield from _documented_in(module, tree)


def _documented_in(name: str, node: _Definition) -> Iterator[tuple[str, str]]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring:
        yield name, docstring
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, _Named) and not child.name.startswith("_"):
                yield from _documented_in(f"{name}.{child.name}", child)
