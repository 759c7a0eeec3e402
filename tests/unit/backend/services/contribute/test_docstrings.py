from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from backend.domain.dataset import LineChecker, Row
from backend.services.contribute.docstrings import (
    MAX_CHARACTERS,
    MIN_CHARACTERS,
    UnknownPackage,
    build_dataset,
    clean,
    licence_of,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("package", "licence"), [("json", "PSF-2.0"), ("web3", "MIT"), ("celery", "BSD-3-Clause")]
)
def test_installed_packages_give_sound_contributions(package: str, licence: str) -> None:
    dataset = build_dataset(package)
    assert dataset.licence == licence
    assert len(dataset.rows) > 10
    checker = LineChecker()
    rows = [checker.check(line, raw.removesuffix(b"\n")) for line, raw in enumerate(dataset.lines(), 1)]
    assert all(isinstance(row, Row) for row in rows)
    sources = [row["source"] for row in dataset.rows]
    assert sources == sorted(set(sources))
    assert len({row["completion"] for row in dataset.rows}) == len(sources)
    for row in dataset.rows:
        assert row["source"].split(".")[0] == package
        assert row["prompt"] == f"What does `{row['source']}` do?"
        assert MIN_CHARACTERS <= len(row["completion"]) <= MAX_CHARACTERS


def test_the_same_rows_come_out_every_time_and_a_limit_takes_a_fixed_part() -> None:
    whole, part = build_dataset("web3"), build_dataset("web3", 20)
    assert build_dataset("web3") == whole
    assert len(part.rows) == 20
    assert set(map(str, part.rows)) < set(map(str, whole.rows))


def test_a_known_object_is_described_in_its_own_words() -> None:
    answers = {row["source"]: row["completion"] for row in build_dataset("json").rows}
    assert answers["json.dumps"].startswith("Serialize `obj` to a JSON formatted `str`.")


def test_nothing_is_imported() -> None:
    script = (
        "import sys; from backend.services.contribute.docstrings import build_dataset\n"
        "build_dataset('web3', 5); print([m for m in ('web3', 'torch', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_untrusted_sources_are_parsed_with_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "odd_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text('"""A package that is odd in many ways."""\nraise SystemExit\n')
    (package / "broken.py").write_text("def (")
    (package / "nul.py").write_bytes(b"x = '\0'")
    (package / "escape.py").write_text('def f():\n    "Says \\d, which is an invalid escape."\n')
    (package / "_private.py").write_text('"""Hidden from the public, so not a row."""')
    (package / "tests" / "__init__.py").write_text('"""Tests are not what the package does."""')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("backend.services.contribute.docstrings.licence_of", lambda _: "MIT")
    rows = build_dataset("odd_package").rows
    assert [row["source"] for row in rows] == ["odd_package", "odd_package.escape.f"]


@pytest.mark.parametrize("package", ["no_such_package_here", "os/../..", "", "math", "a b"])
def test_a_package_without_sources_is_refused(package: str) -> None:
    with pytest.raises(UnknownPackage):
        build_dataset(package)


def test_a_package_that_is_not_installed_has_no_licence() -> None:
    with pytest.raises(UnknownPackage):
        licence_of("no_such_package_here")


@pytest.mark.parametrize(
    ("docstring", "answer"),
    [
        (
            "Return a :class:`~json.JSONEncoder` that\n    writes ``text``.",
            "Return a `json.JSONEncoder` that writes `text`.",
        ),
        ("Opens the file for its caller.\n\n.. versionadded:: 3\n\nMore.", "Opens the file for its caller."),
        (
            "Opens the file for its caller.\n\nAlso closes it.\n\n:param x: y",
            "Opens the file for its caller. Also closes it.",
        ),
        ("Opens the file for its caller::\n\n    code", "Opens the file for its caller"),
        ("Opens the file for its caller.\n\nArgs:\n    x: y", "Opens the file for its caller."),
        ("See :meth:`the method <a.b.c>` for all of it.", "See `the method` for all of it."),
        ("Short one.", None),
        ("-" * 40, None),
        ("x" * 1000, None),
        ("One sentence that fits well. " + "y" * 1000, "One sentence that fits well."),
    ],
)
def test_docstrings_become_plain_bounded_text(docstring: str, answer: str | None) -> None:
    assert clean(docstring) == answer


def test_rows_are_json() -> None:
    assert all(
        set(json.loads(line)) == {"prompt", "completion", "source"} for line in build_dataset("json").lines()
    )
