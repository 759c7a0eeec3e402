"""SPDX licence expressions of contributions."""

from __future__ import annotations

from functools import cache
from typing import Any

from backend.domain.errors import InvalidInput

MAX_CHARACTERS = 256


class UnknownLicence(InvalidInput):
    """Missing, malformed, or with a licence that SPDX does not list."""


class LicenceConflict(InvalidInput):
    """The datanet does not take it; `details["accepted"]` lists the licences that it takes."""


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


def check_compatible(licence: str, accepted: str) -> None:
    """Whether one of the choices that `licence` leaves needs nothing but licences that `accepted` names.

    Both as `parse_licence` gives them. What a licence permits is not judged here: the datanet's creator names
    those that go together. Errors: `LicenceConflict`.
    """
    named = {str(symbol) for symbol in _licensing().parse(accepted).literals}
    if not _is_met(_licensing().parse(licence), named):
        details = {"licence": licence, "accepted": sorted(named)}
        takes = ", ".join(sorted(named))
        raise LicenceConflict(f"the datanet takes {takes}, and {licence} needs others", "licence", details)


def _is_met(expression: Any, named: set[str]) -> bool:
    if expression.isliteral:
        return str(expression) in named
    met = (_is_met(part, named) for part in expression.args)
    return all(met) if expression.operator.strip() == "AND" else any(met)


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()
