from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.contribution import PersonalKind, UploadState
from backend.domain.dataset import Row, RowFormat
from backend.services.contribute.personal_data import CANDIDATE, PersonalDataSearch, PersonalDataUnchecked
from backend.services.contribute.personal_data_child import TELEPHONE, mask
from tests.support.contributions import ContributionHarness, jsonl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database

CARD, IBAN, MAIL = "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "fdrake@acm.org"
HELD = {
    CARD: "CREDIT_CARD",
    IBAN: "IBAN_CODE",
    MAIL: "EMAIL_ADDRESS",
    "192.0.2.17": "IP_ADDRESS",
    "fe80::fade:beef": "IP_ADDRESS",
    "abcd:abcd:abcd:abcd:abcd:abcd:abcd:abcd": "IP_ADDRESS",
    "856-45-6789": "US_SSN",
    "AA 12 34 56 B": "UK_NINO",
    "401-023-2137": "UK_NHS",
    "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa": "CRYPTO",
    "+49 30 901820": "PHONE_NUMBER",
    "(212) 555-0100": "PHONE_NUMBER",
    "310-1234": "PHONE_NUMBER",
    "011 49 30 901820": "PHONE_NUMBER",
    "(+(49) 30 901820": "PHONE_NUMBER",
    "+٤٩ ٣٠ ٩٠١٨٢٠": "PHONE_NUMBER",
}
NOT_HELD = ("4111 1111 1111 1112", "DE89 3704 0044 0532 0130 01", "a@b", "at 10:30", "std::vector", "3.11.7")


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


@pytest.fixture(scope="module")
def search() -> Iterator[PersonalDataSearch]:
    started = PersonalDataSearch()
    yield started
    started.end()


def asked(search: PersonalDataSearch, text: str) -> set[str]:
    """Kinds."""
    search.ask([Row(1, RowFormat.TEXT, (text,), b"")])
    return {finding.kind for finding in search.answer()}


@pytest.mark.parametrize(("text", "kind"), HELD.items())
def test_each_kind_is_found_and_no_gate_lets_it_by(search: PersonalDataSearch, text: str, kind: str) -> None:
    sentence = f"It is {text}, as far as we know."
    assert CANDIDATE.search(sentence)
    assert kind in asked(search, sentence)


def test_no_telephone_number_has_fewer_digits_than_the_gate_asks_for() -> None:
    import phonenumbers
    from phonenumbers import PhoneMetadata

    regions = [PhoneMetadata.metadata_for_region(name) for name in phonenumbers.SUPPORTED_REGIONS]
    others = map(PhoneMetadata.metadata_for_nongeo_region, phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS)
    shortest = [
        len(str(known.country_code))
        + min(length for length in known.general_desc.possible_length if length > 0)
        for known in (*regions, *others)
    ]
    assert len(shortest) > 200
    assert min(shortest) == 6
    america = PhoneMetadata.metadata_for_region("US")
    dialled = [known.general_desc for known in regions if known.country_code == america.country_code]
    assert min(length for kind in dialled for length in kind.possible_length) == 7
    assert len(america.international_prefix) + min(shortest) > 7, "from there to elsewhere"


def test_what_no_telephone_number_is_does_not_pass_its_gate() -> None:
    assert TELEPHONE.search("+2.12345")
    assert not TELEPHONE.search("2.12345")


def test_every_kind_is_among_them() -> None:
    assert set(HELD.values()) == set(PersonalKind)


@pytest.mark.parametrize("text", NOT_HELD)
def test_what_has_no_form_or_a_wrong_checksum_is_none(search: PersonalDataSearch, text: str) -> None:
    assert asked(search, f"It is {text}, as far as we know.") == set()


def test_the_child_loads_no_torch_and_asks_no_net() -> None:
    code = """
import socket, sys
def refuse(*_): raise SystemExit("asked the net")
socket.socket.connect = socket.getaddrinfo = refuse
from backend.services.contribute import personal_data_child as child
sys.meta_path.insert(0, child._BlockedImports())
known = child.load_recognisers()
print(list(child.findings(known, "fdrake@acm.org")), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[('EMAIL_ADDRESS', 'fd...rg')] False\n"
    assert done.stderr == ""


def test_findings_are_reported_by_line_and_field_and_never_in_clear(harness: ContributionHarness) -> None:
    answer = {"role": "assistant", "content": f"Ask {MAIL} or {MAIL}."}
    turns = ([{"role": "user", "content": question}, answer] for question in ("Who?", "And?"))
    upload = harness.upload(jsonl(*({"messages": each} for each in turns)))
    assert upload.state is UploadState.DRAFT, "it is only reported"
    found = harness.contributions.status(upload.id).report.personal_data
    assert found is not None
    assert found.counts == {"EMAIL_ADDRESS": 2}
    assert [(one.line, one.field, one.masked) for one in found.first] == [
        (1, "messages[1].content", "fd...rg"),
        (2, "messages[1].content", "fd...rg"),
    ]
    assert MAIL not in repr(harness.contributions.find())


def test_rows_of_a_refused_kind_are_defects(harness: ContributionHarness) -> None:
    content = jsonl({"text": "sound"}, {"text": f"My card is {CARD}."}, {"text": f"{IBAN} and {CARD}"})
    upload = harness.upload(content)
    assert upload.state is UploadState.INVALID
    defects = list(harness.contributions.defects(upload.id))
    assert [(d.line, d.code, d.field) for d in defects] == [
        (2, "personal_data", "text"),
        *[(3, "personal_data", "text")] * 2,
    ]
    assert defects[0].message == "contains CREDIT_CARD: 41...11"
    partly = harness.upload(content, accepts_partial=True)
    assert (partly.report.num_rows, partly.report.num_left_out) == (1, 2)
    assert harness.staging.data(partly.id).read_bytes() == b'{"text":"sound"}\n'


def test_sources_are_published_and_searched_too(harness: ContributionHarness) -> None:
    sources = {"Anna.": "anna", "Ben.": CARD, "Carl.": MAIL}
    rows = [{"prompt": "Who?", "completion": name, "source": source} for name, source in sources.items()]
    upload = harness.upload(jsonl(*rows))
    assert upload.state is UploadState.INVALID
    assert [(one.line, one.code, one.field) for one in upload.report.defects] == [
        (2, "personal_data", "source")
    ]
    found = upload.report.personal_data
    assert found is not None
    assert [(one.line, one.field, one.kind) for one in found.first] == [
        (2, "source", PersonalKind.CREDIT_CARD),
        (3, "source", PersonalKind.EMAIL_ADDRESS),
    ]
    chat = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna."}]}
    for row in (chat, {"text": "It is Anna's."}):  # the first row of a file is parsed differently
        assert harness.upload(jsonl(row | {"source": CARD})).report.defects[0].field == "source"


def test_rows_that_cannot_hold_any_start_no_child(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("subprocess.Popen", fail)
    found = harness.upload(jsonl({"text": "no digit: none"})).report.personal_data
    assert found is not None
    assert (found.counts, found.first) == ({}, ())


def test_a_child_that_dies_ends_the_upload_and_leaves_nothing(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.contribute.personal_data.CHILD", "backend.of_no_such_name")
    for size in (10, 1000):
        with pytest.raises(PersonalDataUnchecked):
            harness.upload(jsonl(*({"text": f"{number} {'x' * size}"} for number in range(80))))
    assert harness.contributions.find() == []


def test_many_findings_and_many_rows_do_not_wait_for_each_other(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.contribute.canonical_rows.ROWS_AT_ONCE", 500)
    content = jsonl(*({"text": f"{number}@example.org"} for number in range(2000)))
    found = harness.upload(content).report.personal_data
    assert found is not None
    assert found.counts == {PersonalKind.EMAIL_ADDRESS: 2000}
    assert [one.line for one in found.first] == list(range(1, 101))


@pytest.mark.parametrize(("value", "shown"), [("a@b.org", "..."), ("ab@c.org", "ab...rg"), (CARD, "41...11")])
def test_values_are_shown_by_their_ends_if_they_are_long(value: str, shown: str) -> None:
    assert mask(value) == shown
