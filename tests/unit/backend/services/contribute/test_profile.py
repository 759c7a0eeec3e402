from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from backend.domain.dataset import LineChecker, Row
from backend.services.contribute import profile
from backend.services.contribute.profile import UNDETERMINED, Profiler, language
from tests.support.contributions import BOB, ContributionHarness, count_words, jsonl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from backend.db.unit_of_work import Database


def rows(texts: Iterable[str]) -> list[Row]:
    checker = LineChecker()
    checked = [
        checker.check(line, jsonl({"text": text}).rstrip(b"\n")) for line, text in enumerate(texts, start=1)
    ]
    return [row for row in checked if isinstance(row, Row)]


def profiled(found: list[Row]) -> profile.Profile:
    profiler = Profiler(count_words)
    for start in range(0, len(found), 7):
        profiler.add([(row, row.hash) for row in found[start : start + 7]])
    return profiler.profile()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Returns the number of items in the list, or zero if there are none.", "en"),
        ("Gibt die Anzahl der Einträge in der Liste zurück, oder null, wenn es keine gibt.", "de"),
        ("Renvoie le nombre d'éléments de la liste, ou zéro s'il n'y en a pas.", "fr"),
        ("Возвращает количество элементов списка или ноль, если их нет.", "ru"),
        ("1 + 1 = 2", UNDETERMINED),
    ],
)
def test_the_language_is_detected_if_the_words_suffice(text: str, code: str) -> None:
    assert language(text) == code


def test_small_uploads_are_counted_to_the_token() -> None:
    found = profiled(rows(["one two three", "four", "five six"]))
    assert (found.num_sampled, found.is_exact, found.num_tokens) == (3, True, 6)
    assert found.lengths == {"7": 1, "15": 2}
    assert sum(found.languages.values()) == 3


def test_large_uploads_are_projected_from_a_sample_that_order_does_not_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile, "SAMPLE_ROWS", 200)
    monkeypatch.setattr(profile, "SAMPLE_CHARACTERS", 100)
    dice = random.Random(0)
    found = rows(" ".join(["words"] * dice.randint(1, 60)) for _ in range(2000))
    first = profiled(found)
    assert (first.num_sampled, first.is_exact) == (200, False)
    assert sum(first.lengths.values()) == len(found)
    exact = sum(count_words(row.texts) for row in found)
    assert first.num_tokens == pytest.approx(exact, rel=0.03)
    for _ in range(5):
        dice.shuffle(found)
        assert profiled(found) == first
    smallest_last = sorted(found, key=lambda row: row.hash, reverse=True)
    assert profiled(smallest_last) == first


def test_the_profile_is_part_of_the_report_of_sound_and_of_unsound_uploads(
    sqlite_database: Database, tmp_path: Path
) -> None:
    harness = ContributionHarness(sqlite_database, tmp_path)
    upload = harness.upload(jsonl({"text": "Returns the sum of all items."}) + b"nope\n", BOB)
    kept = harness.contributions.status(upload.id).report.profile
    assert kept == upload.report.profile
    assert kept is not None
    assert (kept.num_tokens, kept.languages, kept.lengths) == (6, {"en": 1}, {"31": 1})
    assert harness.upload(b"nope\n").report.profile is None
