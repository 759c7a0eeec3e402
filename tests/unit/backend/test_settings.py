"""Settings are parsed once, and what is wrong with them is named."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("password", ["a/b", "a#b", "12?3", "12#3", "a[b"])
def test_a_brokers_password_that_breaks_its_url_is_named_without_it(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("LORALEDGER_BROKER_URL", f"amqp://market:{password}@rabbitmq:5672//")
    with pytest.raises(InvalidInput, match=r"LORALEDGER_BROKER_URL: .*percent code") as caught:
        load_settings()
    assert password not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "amqp://a:b%2Fc@h:5672//",
        "amqp://a:b@h;amqp://a:b@i",
        "redis://h/0",
        "redis+socket:///run/redis.sock",
    ],
)
def test_urls_of_brokers_are_kept(url: str) -> None:
    assert Settings(broker_url=url).broker_url == url


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


def test_bases_have_engines_prices_and_training_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of the page."""
    found = re.search(r"```json\n(.*?)```", Path("docs/operating.md").read_text(), re.DOTALL)
    assert found is not None
    monkeypatch.setenv("LORALEDGER_BASES", found[1])
    small, remote, large = load_settings().served
    assert {number: path.name for number, path in small.sockets.items()} == {
        1: "engine.sock",
        2: "engine-2.sock",
    }
    assert (remote.urls, remote.sockets) == (("http://127.0.0.1:8001",), {})
    assert {number: path.name for number, path in large.sockets.items()} == {3: "engine-3.sock"}
    assert [base.prices for base in (small, remote, large)] == [
        (200_000, 400_000),
        (800_000, 1_600_000),
        None,
    ]
    assert [base.training_price for base in (small, remote, large)] == [400_000, 1_600_000, None]
    assert [base.file.name for base in (small, large)] == ["base_model.json", "base_model-3.json"]
    assert [base.gradients_socket.name for base in (small, remote)] == ["gradients.sock", "gradients-2.sock"]
    assert remote.vllm_folder == Path(".loraledger", "vllm", "large")


def test_replicas_on_a_ray_cluster_are_named_as_its_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path("docs/ray.md").read_text()
    [urls] = re.findall(r'^export LORALEDGER_ENGINE_URLS="(.*)"$', text, re.MULTILINE)
    monkeypatch.setenv("LORALEDGER_ENGINE_URLS", urls.replace("$PORT", "8000"))
    [base] = load_settings().served
    assert base.urls == ("http://127.0.0.1:8000/replica-1", "http://127.0.0.1:8000/replica-2")


def test_a_single_base_is_named_by_the_settings_of_one() -> None:
    settings = Settings(base_model="/models/small", engine_replicas=2, training_price=3)
    [base] = settings.served
    assert (base.model, list(base.sockets), base.training_price) == ("/models/small", [1, 2], 3)
    assert base.sockets[1] == settings.engine_socket
    assert base.vllm_folder == settings.home / "vllm"


@pytest.mark.parametrize(
    ("bases", "others", "fault"),
    [
        ('[{"model": "a"}, {"model": "a"}]', {}, "the base model 'a' is named twice"),
        (
            '[{"model": "a", "urls": ["http://a:1"]}, {"model": "b", "urls": ["http://a:1/"]}]',
            {},
            "the server 'http://a:1' is named twice",
        ),
        ('[{"model": "a"}]', {"BASE_MODEL": "b"}, "LORALEDGER_BASE_MODEL is for a single base model"),
        ('[{"model": "a"}]', {"ENGINE_REPLICAS": "2"}, "LORALEDGER_ENGINE_REPLICAS is for a single"),
        ('[{"model": "a", "colour": "red"}]', {}, "LORALEDGER_BASES.0.colour: Extra inputs"),
        ('[{"model": "a", "urls": ["a:1"]}]', {}, "'a:1' is no URL of a server"),
        ("a, b", {}, "LORALEDGER_BASES is no JSON list"),
    ],
)
def test_bases_that_cannot_be_meant_are_refused(
    bases: str, others: dict[str, str], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORALEDGER_BASES", bases)
    for name, value in others.items():
        monkeypatch.setenv(f"LORALEDGER_{name}", value)
    with pytest.raises(InvalidInput, match=re.escape(fault)):
        load_settings()
