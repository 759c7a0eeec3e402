"""Settings are parsed once, and what is wrong with them is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.domain.errors import InvalidInput
from backend.settings import Settings, load_settings


def test_an_unknown_setting_is_fatal_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORALEDGER_API_PROT", "8000")
    with pytest.raises(InvalidInput, match="LORALEDGER_API_PROT"):
        load_settings()


def test_a_malformed_setting_is_fatal_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORALEDGER_API_PORT", "eight thousand")
    with pytest.raises(InvalidInput, match="LORALEDGER_API_PORT"):
        load_settings()


def test_everything_local_lies_below_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORALEDGER_HOME", "/somewhere/else")
    settings = load_settings()
    home = Path("/somewhere/else")
    assert settings.db_url == f"sqlite:///{home / 'loraledger.db'}"
    for path in (settings.blocks, settings.keystore, settings.deployment_file, settings.engine_socket):
        assert path.absolute().resolve().is_relative_to(home)


def test_the_engines_socket_has_a_short_name_however_deep_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path.joinpath(*["a-rather-long-name"] * 8)
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    assert len(str(Settings(home=home / "state").engine_socket)) < 40


def test_a_sign_in_may_name_the_public_address_only_where_there_is_one() -> None:
    assert Settings(public_url="https://market.example/").origins == ("https://market.example",)
    assert Settings(api_port=8123).origins == ("http://127.0.0.1:8123", "http://localhost:8123")


def test_kinds_of_personal_data_are_those_that_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(refused_personal_data="").refused_kinds == frozenset()
    assert Settings(refused_personal_data="IBAN_CODE, US_SSN").refused_kinds == {"IBAN_CODE", "US_SSN"}
    monkeypatch.setenv("LORALEDGER_REFUSED_PERSONAL_DATA", "IBAN_CODE,NAMES")
    with pytest.raises(InvalidInput, match=r"LORALEDGER_REFUSED_PERSONAL_DATA: .*some of EMAIL_ADDRESS"):
        load_settings()


def test_every_setting_is_documented() -> None:
    documented = Path("docs/settings.md").read_text()
    for name in Settings.model_fields:
        assert f"`LORALEDGER_{name.upper()}`" in documented


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", []),
        ("https://app.example.org", ["https://app.example.org"]),
        ("http://localhost:5173, http://[::1]:80", ["http://localhost:5173", "http://[::1]:80"]),
    ],
)
def test_origins_of_browsers_are_listed(text: str, origins: list[str]) -> None:
    assert Settings(cors_origins=text).browser_origins == origins


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "app.example.org",
        "https://app.example.org/",
        "https://App.example.org",
        "ftp://a",
        "null",
        "https://a b",
    ],
)
def test_what_is_no_origin_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("LORALEDGER_CORS_ORIGINS", f"https://good.example,{origin}")
    with pytest.raises(InvalidInput, match="LORALEDGER_CORS_ORIGINS") as refused:
        load_settings()
    assert "is no origin" in str(refused.value)
