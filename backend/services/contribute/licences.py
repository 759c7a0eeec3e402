"""SPDX licence expressions of contributions."""

from __future__ import annotations

from functools import cache
from typing import Any

from backend.domain.errors import InvalidInput

MAX_CHARACTERS = 256


class UnknownLicence(InvalidInput):
    """Missing, malformed, or with a licence that SPDX does not list."""


def parse_licence(expression: str) -> str:
    """The expression in its normal spelling: `mit or apache-2.0` -> `MIT OR Apache-2.0`."""
    if not expression.strip():
        raise UnknownLicence("a licence is required: an SPDX expression such as MIT or CC-BY-4.0", "licence")
    from license_expression import ExpressionError  # type: ignore[import-untyped]

    try:
        if len(expression) > MAX_CHARACTERS:
            raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")  # noqa: TRY301 - one way to fail
        return str(_licensing().parse(expression, validate=True, strict=True))
    except ExpressionError as error:
        details = {"licence": expression[:MAX_CHARACTERS]}
        raise UnknownLicence(f"no SPDX licence expression: {error}", "licence", details) from error


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()
