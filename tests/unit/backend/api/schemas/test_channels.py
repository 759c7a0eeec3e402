from __future__ import annotations

import pytest
from pydantic import ValidationError

from backend.api.schemas.channels import SessionTermsBody


def test_an_expiry_in_milliseconds_is_refused_with_the_unit() -> None:
    assert SessionTermsBody(expiry=253_402_300_799).expiry == 253_402_300_799
    for instant in (253_402_300_800, 1_796_083_200_000):
        with pytest.raises(ValidationError, match="send seconds since 1970, not milliseconds"):
            SessionTermsBody(expiry=instant)
