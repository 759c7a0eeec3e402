from __future__ import annotations

from datetime import UTC, datetime

import pytest
from eth_account.messages import _hash_eip191_message, encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import InvalidInput
from backend.domain.ids import Account
from backend.domain.sign_in_message import (
    SignInMessage,
    checksummed,
    parse_message,
    personal_digest,
)

# The example of EIP-4361 itself, with resources.
EXAMPLE = """\
https://example.com wants you to sign in with your Ethereum account:
0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2

I accept the ExampleOrg Terms of Service: https://example.com/tos

URI: https://example.com/login
Version: 1
Chain ID: 1
Nonce: 32891756
Issued At: 2021-09-30T16:25:24Z
Resources:
- ipfs://bafybeiemxf5abjwjbikoz4mc3a3dla6ual3jsgpdr4cjr3oz3evfyavhwq/
- https://example.com/my-web2-claim.json"""

instants = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda instant: instant.replace(microsecond=instant.microsecond // 1000 * 1000)
)
messages = st.builds(
    SignInMessage,
    domain=st.sampled_from(["example.com", "127.0.0.1:8000"]),
    account=st.binary(min_size=20, max_size=20).map(lambda raw: Account("0x" + raw.hex())),
    uri=st.just("https://example.com/login"),
    chain_id=st.integers(0, 10**18),
    nonce=st.from_regex(r"\A[a-zA-Z0-9]{8,64}\Z"),
    issued_at=instants,
    expiration_time=st.none() | instants,
    not_before=st.none() | instants,
    statement=st.none() | st.from_regex(r"\A[ -~]{1,80}\Z"),
)


@given(messages)
def test_a_message_reads_back_as_written(message: SignInMessage) -> None:
    assert parse_message(message.text()) == message


def test_the_standards_own_example_is_read() -> None:
    message = parse_message(EXAMPLE)
    assert message.domain == "example.com"
    assert message.account == "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
    assert message.nonce == "32891756"
    assert message.issued_at == datetime(2021, 9, 30, 16, 25, 24, tzinfo=UTC)
    assert message.expiration_time is None


def test_addresses_are_spelled_as_the_standards_example_has_them() -> None:
    account = Account("0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2")
    assert checksummed(account) == "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"


@given(st.text(max_size=200))
def test_the_digest_is_that_of_personal_sign(text: str) -> None:
    assert personal_digest(text) == _hash_eip191_message(encode_defunct(text=text))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Version: 1", "Version: 2"),
        ("Nonce: 32891756", "Nonce: short"),
        ("Nonce: 32891756\n", ""),
        ("Issued At: 2021-09-30T16:25:24Z", "Issued At: yesterday"),
        ("Issued At: 2021-09-30T16:25:24Z", "Issued At: 2021-09-30T16:25:24"),
        ("Issued At: 2021-09-30T16:25:24Z", "Issued At: 0001-01-01T00:00:00+23:59"),
        ("Issued At: 2021-09-30T16:25:24Z", "Issued At: 9999-12-31T23:59:59-23:59"),
        ("URI: https", "Uri: https"),
        ("URI: https://", "URI: http://["),
        ("\n\nURI", "\nURI"),
        ("0xC02a", "0xZ02a"),
        ("Resources:", "Extra: field\nResources:"),
    ],
)
def test_a_malformed_message_is_refused(before: str, after: str) -> None:
    assert before in EXAMPLE
    with pytest.raises(InvalidInput) as caught:
        parse_message(EXAMPLE.replace(before, after, 1))
    assert caught.value.param == "message"


def test_an_oversized_message_is_refused() -> None:
    with pytest.raises(InvalidInput):
        parse_message(EXAMPLE + "\n- https://example.com/" + "x" * 5000)
