from __future__ import annotations

import pytest

from backend.services.contribute.licences import (
    LicenceConflict,
    UnknownLicence,
    check_compatible,
    joint_licence,
    parse_licence,
)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("MIT", "MIT"),
        (" mit or apache-2.0\n", "MIT OR Apache-2.0"),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", "GPL-2.0-or-later WITH Classpath-exception-2.0"),
        ("PSF-2.0", "PSF-2.0"),
        ("CC-BY-4.0", "CC-BY-4.0"),
    ],
)
def test_expressions_get_their_normal_spelling(given: str, normal: str) -> None:
    assert parse_licence(given) == normal


@pytest.mark.parametrize(
    "given", ["", " ", "Foo", "MIT AND", "AND", "(MIT", "MIT; drop", "é", "MIT WITH MIT", "(" * 500 + "MIT"]
)
def test_anything_else_is_refused(given: str) -> None:
    with pytest.raises(UnknownLicence) as caught:
        parse_licence(given)
    assert caught.value.param == "licence"


def test_a_normal_form_that_would_be_refused_itself_is_refused() -> None:
    given = "(MIT OR Apache-2.0)AND" * 10 + "(MIT OR Apache-2.0)"
    assert len(given) < 256
    with pytest.raises(UnknownLicence, match="longer than 256"):
        parse_licence(given)


def test_licences_together_may_be_longer_than_one() -> None:
    kinds = [f"CC-BY{kind}-4.0" for kind in ("", "-NC", "-NC-ND", "-NC-SA", "-ND", "-SA")]
    versions = sorted(
        name.replace("4.0", number) for name in kinds for number in ("2.0", "2.5", "3.0", "4.0")
    )
    together = joint_licence(["isc or 0bsd", *reversed(versions), versions[0]])
    assert together == " AND ".join([*versions, "(ISC OR 0BSD)"])
    assert 256 < len(together) < 1024


def test_licences_that_are_too_long_together_are_refused() -> None:
    with pytest.raises(UnknownLicence, match="longer than 1024"):
        joint_licence(f"({'MIT AND ' * count}0BSD) OR ISC" for count in range(1, 20))


@pytest.mark.parametrize(
    ("licence", "accepted"),
    [
        ("MIT", "MIT OR Apache-2.0"),
        ("MIT OR GPL-3.0-only", "MIT"),
        ("MIT AND Apache-2.0", "MIT OR Apache-2.0"),
        ("(MIT OR ISC) AND Apache-2.0", "Apache-2.0 OR ISC"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
    ],
)
def test_a_licence_goes_where_one_of_its_choices_is_taken(licence: str, accepted: str) -> None:
    check_compatible(parse_licence(licence), parse_licence(accepted))


@pytest.mark.parametrize(
    ("licence", "accepted", "named"),
    [
        ("GPL-3.0-only", "MIT OR Apache-2.0", ["Apache-2.0", "MIT"]),
        ("MIT AND GPL-3.0-only", "MIT", ["MIT"]),
        ("GPL-2.0-or-later", "GPL-2.0-only", ["GPL-2.0-only"]),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only", ["GPL-2.0-only"]),
        (" OR ".join(f"(ISC AND {key})" for key in ("Zlib", "Beerware")), "ISC", ["ISC"]),
    ],
)
def test_any_other_is_a_conflict_that_lists_what_is_taken(
    licence: str, accepted: str, named: list[str]
) -> None:
    with pytest.raises(LicenceConflict, match="the datanet accepts") as caught:
        check_compatible(parse_licence(licence), parse_licence(accepted))
    assert caught.value.details == {"licence": parse_licence(licence), "accepted": named}
