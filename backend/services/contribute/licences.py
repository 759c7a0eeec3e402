"""Parses and compares SPDX licence expressions."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_CHARACTERS = 256
MAX_JOINT_CHARACTERS = 1024


class UnknownLicence(InvalidInput):
    """The licence is missing, malformed, or not listed by SPDX."""


class LicenceConflict(InvalidInput):
    """The datanet does not accept the licence; `details["accepted"]` lists the accepted ones."""


def parse_licence(expression: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Normalise an expression: `mit or apache-2.0` -> `MIT OR Apache-2.0`. The limit holds for both."""
    if not expression.strip():
        raise UnknownLicence("a licence is required: an SPDX expression such as MIT or CC-BY-4.0", "licence")
    from license_expression import ExpressionError  # type: ignore[import-untyped]

    if len(expression) > max_characters:
        raise _unknown(expression, f"longer than {max_characters} characters")
    try:
        normal = str(_licensing().parse(expression, validate=True, strict=True))
    except ExpressionError as error:
        raise _unknown(expression, str(error)) from error
    except Exception as error:  # the library asserts, and raises errors of many types, such as for `(OR MIT)`
        raise _unknown(expression, "its operators or parentheses are out of place") from error
    if len(normal) > max_characters:
        raise _unknown(expression, f"longer than {max_characters} characters, as `{normal[:32]}...`")
    return normal


def joint_licence(expressions: Iterable[str]) -> str:
    """The licence of what needs all of these, in its normal form.

    Errors: `UnknownLicence`, also if it has more than 1,024 characters.
    """
    each = sorted({parse_licence(expression) for expression in expressions})
    return parse_licence(" AND ".join(f"({expression})" for expression in each), MAX_JOINT_CHARACTERS)


def _unknown(expression: str, why: str) -> UnknownLicence:
    details = {"licence": expression[:MAX_CHARACTERS]}
    return UnknownLicence(f"not an SPDX licence expression: {why}", "licence", details)


def check_compatible(licence: str, accepted: str) -> None:
    """Check that `licence` can be satisfied with licences named in `accepted`, both as `parse_licence`
    returns them.

    The terms of licences are not compared: the datanet's creator names compatible ones. Errors:
    `LicenceConflict`.
    """
    if not is_met(licence, accepted):
        named = _named(accepted)
        details = {"licence": licence, "accepted": sorted(named)}
        names = ", ".join(sorted(named))
        raise LicenceConflict(f"the datanet accepts {names}, not {licence}", "licence", details)


def is_met(licence: str, accepted: str) -> bool:
    """Whether `licence` can be satisfied with licences named in `accepted`, as for `check_compatible`."""
    return _is_met(_licensing().parse(licence), _named(accepted))


def _named(expression: str) -> set[str]:
    return {str(symbol) for symbol in _licensing().parse(expression).literals}


def _is_met(expression: Any, named: set[str]) -> bool:
    if expression.isliteral:
        return str(expression) in named
    met = (_is_met(part, named) for part in expression.args)
    return all(met) if expression.operator.strip() == "AND" else any(met)


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()
