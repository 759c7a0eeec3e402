from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.deployment.compromised_keys import compromised_accounts
from backend.deployment.profiles import ARBITRUM, BOUNDS, DAY, ETHEREUM, LOCAL, OP_STACK
from backend.deployment.quorum import TOKEN
from backend.deployment.terms import TIMELOCK, Terms, validate
from backend.deployment.terms_file import parse_address, read_terms
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.ids import Account
from tests.support.deployment import EXAMPLE, key, production_terms

if TYPE_CHECKING:
    from pathlib import Path

PLACEHOLDER = re.compile(r"0x([0-9a-f]{2})\1{19}")
TOKEN_AT = Account("0x1c7d4b196cb0c7b01d743fbc6116a902379c7238")
ANVIL_FIRST = Account("0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266")
GANACHE_FIRST = Account("0x90f8bf6a479f320ead074411a4b0e7944ea8c9c1")


@pytest.fixture(scope="module")
def example() -> str:
    """The example with real accounts instead of its placeholders."""
    return PLACEHOLDER.sub(lambda found: key(found[0]).account, EXAMPLE.read_text())


def read(folder: Path, text: str) -> Terms:
    path = folder / "terms.toml"
    path.write_text(text)
    return read_terms(path)


def refused(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(InvalidInput) as error:
        read(folder, text)
    return error.value.details


def test_the_example_is_read_as_it_is_written(example: str, tmp_path: Path) -> None:
    terms = read(tmp_path, example)
    assert (terms.chain_id, terms.payment_token, terms.treasury) == (11155111, TOKEN_AT, TIMELOCK)
    assert terms.supply == 10_000_000 * TOKEN == sum(terms.distribution.values())
    assert terms.distribution[key("0x" + "11" * 20).account] == 900_000 * TOKEN
    assert terms.voting_rules["proposalThreshold"] == 100_000 * TOKEN
    assert terms.first_set["disputeWindow"] == 259_200
    assert terms.quorum.needed == 1_000_000 * TOKEN
    assert (terms.quorum.min_accounts, list(terms.quorum.warnings())) == (2, [])


def test_each_placeholder_of_the_example_is_refused(tmp_path: Path) -> None:
    found = refused(tmp_path, EXAMPLE.read_text())
    assert set(found) == {"guardian", "curators.0", "distribution"}
    assert found["distribution"].count("placeholder") == 6


@pytest.mark.parametrize(
    ("old", "new", "place", "why"),
    [
        ("chain_id = 11155111", "chain_id = 0", "chain_id", "greater"),
        ("chain_id = 11155111", "", "chain_id", "required"),
        ('profile = "ethereum"', 'profile = "staging"', "profile", "'ethereum', 'op-stack' or 'arbitrum'"),
        ('profile = "ethereum"', 'profile = "local"', "profile", "'ethereum', 'op-stack' or 'arbitrum'"),
        ('profile = "ethereum"', 'profile = "arbitrum"', "profile", "needs `ethereum`"),
        ("0x1c7D", "0x1C7D", "payment_token", "checksum"),
        ("0x1c7D", "0xzz7D", "payment_token", "not an address"),
        ('treasury = "timelock"', 'treasury = "0x' + "00" * 20 + '"', "treasury", "zero address"),
        ('treasury = "timelock"', "treasury = 7", "treasury", "string"),
        ("curators = [", "curators = [] #", "curators", "at least 1"),
        ("thaw_seconds = 1_209_600", "thaw_seconds = 1_123_200", "thaw_seconds", "exceed 1123200"),
        ("thaw_seconds = 1_209_600", "thaw_seconds = 2_419_201", "thaw_seconds", "not 2419200"),
        ("timelock_seconds = 172_800", "timelock_seconds = 86_399", "timelock_seconds", "at least 86400"),
        ("supply = 10_000_000", "supply = 10_000_001", "distribution", "adds up to 10000000"),
        ("supply = 10_000_000", "supply = 10.5", "supply", "integer"),
        ("delay_seconds = 86_400", "delay_seconds = 1", "voting.delay_seconds", "at least 86400"),
        ("period_seconds = 432_000", "period_seconds = true", "voting.period_seconds", "integer"),
        ("sion_seconds = 86_400", "sion_seconds = 0", "voting.late_quorum_extension_seconds", "at least"),
        ("quorum_percent = 10", "quorum_percent = 0", "voting.quorum_percent", "outside 1 to 100"),
        ("quorum_percent = 10", "quorum_percent = 55", "voting.quorum_percent", "of all holders"),
        ("threshold = 100_000", "threshold = 5_400_001", "voting.proposal_threshold", "of all holders"),
        ("fee_ppm = 50_000", "fee_ppm = 200_001", "parameters.fee_ppm", "outside 0 to 200000"),
        ("cover_ppm = 100_000", "cover_ppm = 49_999", "parameters.stake_cover_ppm", "outside"),
        ("window_seconds = 259_200", "window_seconds = 3600", "parameters.dispute_window_seconds", "outside"),
        ("min_operator_ppm = 50_000", "min_operator_ppm = 500_001", "parameters.min_operator_ppm", "outside"),
        ("max_operator_ppm = 500_000", "max_operator_ppm = 9", "parameters.max_operator_ppm", "outside"),
        (
            "min_contributors_ppm = 300_000",
            "min_contributors_ppm = 960_000",
            "parameters.min_contr",
            "outside",
        ),
        ("challenger_ppm = 250_000", "challenger_ppm = 500_000", "parameters.challenger_ppm", "outside"),
        ("challenger_ppm", "chalenger_ppm", "parameters.chalenger_ppm", "not permitted"),
        ("timelock = 4_600_000", "timelock = 0", "distribution", "gets nothing"),
    ],
)
def test_every_error_is_reported_by_field(
    example: str, tmp_path: Path, old: str, new: str, place: str, why: str
) -> None:
    assert old in example
    found = refused(tmp_path, example.replace(old, new))
    (message,) = [message for name, message in found.items() if name.startswith(place)]
    assert why in message


def test_all_errors_are_reported_at_once(example: str, tmp_path: Path) -> None:
    text = example.replace("fee_ppm = 50_000", "fee_ppm = 900_000").replace("= 1_209_600", "= 5")
    assert set(refused(tmp_path, text)) == {"parameters.fee_ppm", "thaw_seconds"}


def test_a_holder_named_twice_in_two_spellings_is_refused(example: str, tmp_path: Path) -> None:
    holder = key("0x" + "11" * 20).account
    text = example + f'"0x{holder[2:].upper()}" = 1\n'
    assert "twice" in refused(tmp_path, text)["distribution"]


@pytest.mark.parametrize("account", [ANVIL_FIRST, GANACHE_FIRST])
@pytest.mark.parametrize("field", ["guardian", "treasury"])
def test_compromised_accounts_are_refused_on_a_public_chain(account: Account, field: str) -> None:
    terms = replace(production_terms(TOKEN_AT, chain_id=1), **{field: account})
    assert validate(terms) == {field: f"the private key of {account} is public"}
    assert validate(replace(terms, chain_id=31337)) == {}


def test_keys_of_small_numbers_are_compromised() -> None:
    assert "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf" in compromised_accounts()


def test_profile_local_is_refused_in_terms() -> None:
    terms = production_terms(TOKEN_AT)
    assert validate(terms) == {}
    assert "loraledger up" in validate(replace(terms, profile=LOCAL))["profile"]


@pytest.mark.parametrize(("chain_id", "profile"), [(1, ETHEREUM), (8453, OP_STACK), (42161, ARBITRUM)])
def test_a_known_chain_takes_the_profile_of_its_kind(chain_id: int, profile: int) -> None:
    window = {"disputeWindow": 7 * DAY}
    terms = production_terms(TOKEN_AT, chain_id=chain_id)
    for other in (ETHEREUM, OP_STACK, ARBITRUM):
        found = validate(replace(terms, profile=other, first_set={**terms.first_set, **window}))
        assert found.keys() == (set() if other == profile else {"profile"})


@pytest.mark.parametrize("bounds", BOUNDS)
def test_two_rounds_of_demands_a_proof_and_a_reserve_fit_in_every_window(bounds: dict[str, int]) -> None:
    assert 4 * bounds["answerSeconds"] <= bounds["minDisputeWindow"]


def test_every_field_changes_the_digest() -> None:
    terms = production_terms(TOKEN_AT)
    assert terms.digest == production_terms(TOKEN_AT).digest
    assert terms.digest != replace(terms, thaw_seconds=terms.thaw_seconds + 1).digest


def test_addresses_are_read_with_and_without_checksum() -> None:
    mixed = "0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238"
    for spelling in (mixed, mixed.lower(), "0x" + mixed[2:].upper()):
        assert parse_address(spelling) == TOKEN_AT
    for wrong in ("", "0x", mixed[:-1], mixed[2:], mixed + "00", mixed.swapcase()):
        with pytest.raises(ValueError, match=r"address|checksum"):
            parse_address(wrong)


def test_a_missing_or_malformed_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"terms\.example\.toml"):
        read_terms(tmp_path / "none.toml")
    with pytest.raises(InvalidInput, match="is not TOML"):
        read(tmp_path, "chain_id = ")
