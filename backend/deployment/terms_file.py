"""Reads terms files (TOML) and reports all errors at once."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Literal

from eth_utils.address import to_checksum_address
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from backend.deployment.profiles import NAMES
from backend.deployment.quorum import TOKEN
from backend.deployment.terms import PARAMETER_FIELDS, TIMELOCK, VOTING_FIELDS, Holder, Terms, validate
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.ids import Account

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_UINT = {32: (1 << 32) - 1, 48: (1 << 48) - 1, 64: (1 << 64) - 1}


def parse_address(text: str) -> Account:
    """Parse an address, which must have its EIP-55 checksum if it is in mixed case. Errors: `ValueError`."""
    digits = text.removeprefix("0x")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if not text.startswith("0x") or len(digits) != 40 or len(raw) != 20:
        raise ValueError(f"{text!r} is not an address: 0x and 40 hex digits are expected")
    if digits not in (digits.lower(), digits.upper()) and text != to_checksum_address(text):
        raise ValueError(f"{text} has a wrong checksum (EIP-55): is a digit mistyped?")
    return Account(text.lower())


def _parse_holder(text: str) -> Holder:
    return TIMELOCK if text == TIMELOCK else parse_address(text)


def _parse_distribution(raw: dict[str, int]) -> dict[Holder, int]:
    found: dict[Holder, int] = {}
    for text, amount in raw.items():
        holder = _parse_holder(text)
        if holder in found:
            raise ValueError(f"names {text} twice")
        found[holder] = amount * TOKEN
    return found


Address = Annotated[str, AfterValidator(parse_address)]
HolderName = Annotated[str, AfterValidator(_parse_holder)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Voting(_Table):
    delay_seconds: int = Field(ge=0, le=MAX_UINT[48])
    period_seconds: int = Field(ge=1, le=MAX_UINT[32])
    late_quorum_extension_seconds: int = Field(ge=0, le=MAX_UINT[48])
    quorum_percent: int
    proposal_threshold: int = Field(ge=0)


class _Parameters(_Table):
    fee_ppm: int = Field(ge=0, le=MAX_UINT[32])
    stake_cover_ppm: int = Field(ge=0, le=MAX_UINT[32])
    dispute_window_seconds: int = Field(ge=0, le=MAX_UINT[32])
    min_contributors_ppm: int = Field(ge=0, le=MAX_UINT[32])
    min_operator_ppm: int = Field(ge=0, le=MAX_UINT[32])
    max_operator_ppm: int = Field(ge=0, le=MAX_UINT[32])
    challenger_ppm: int = Field(ge=0, le=MAX_UINT[32])


class _TermsFile(_Table):
    chain_id: int = Field(ge=1)
    profile: Literal["ethereum", "op-stack", "arbitrum"]
    payment_token: Address
    treasury: HolderName
    guardian: Address
    curators: list[Address] = Field(min_length=1)
    thaw_seconds: int = Field(ge=0, le=MAX_UINT[64])
    timelock_seconds: int = Field(ge=0, le=MAX_UINT[64])
    supply: int = Field(ge=1)
    voting: _Voting
    parameters: _Parameters
    distribution: Annotated[dict[str, int], AfterValidator(_parse_distribution)] = Field(min_length=1)

    def terms(self) -> Terms:
        voting = self.voting.model_dump()
        voting["proposal_threshold"] *= TOKEN
        parameters = self.parameters.model_dump()
        distribution: Mapping[Holder, int] = self.distribution  # type: ignore[assignment]
        return Terms(
            chain_id=self.chain_id,
            profile=NAMES.index(self.profile),
            payment_token=Account(self.payment_token),
            treasury=self.treasury,  # type: ignore[arg-type]
            guardian=Account(self.guardian),
            curators=tuple(map(Account, self.curators)),
            thaw_seconds=self.thaw_seconds,
            timelock_seconds=self.timelock_seconds,
            voting_rules={name: voting[key] for name, key in VOTING_FIELDS.items()},
            first_set={name: parameters[key] for name, key in PARAMETER_FIELDS.items()},
            supply=self.supply * TOKEN,
            distribution=distribution,
        )


def read_terms(path: Path) -> Terms:
    """Load and validate terms. Errors: `NotFound`; `InvalidInput`, whose details have the errors by field."""
    try:
        raw = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(f"no terms file {path}: start from deployments/terms.example.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not TOML: {error}", param="terms") from error
    try:
        terms = _TermsFile.model_validate(raw).terms()
    except ValidationError as error:
        found = {".".join(map(str, e["loc"])): e["msg"].removeprefix("Value error, ") for e in error.errors()}
        raise _invalid(path, found) from error
    if found := validate(terms):
        raise _invalid(path, found)
    return terms


def _invalid(path: Path, found: Mapping[str, str]) -> InvalidInput:
    return InvalidInput(f"{path} cannot be deployed:", param="terms", details=dict(found))
