from __future__ import annotations

import pytest

from backend.services.contribute.licences import UnknownLicence, parse_licence


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
