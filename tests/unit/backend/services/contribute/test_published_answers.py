"""Published answers from the folder of a version to the report of an upload."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import delete, select

from backend.db.tables.catalogue import DescriptionRow
from backend.db.tables.chain import VersionRow
from backend.db.tables.published_answers import PublishedAnswersRow
from backend.domain.attribution import ANSWERS_FILE, MAX_ANSWERS
from backend.domain.content import cid_digest, cid_of
from backend.domain.contribution import UploadState
from backend.domain.denials import Denial, Denied, Reason, Subject
from backend.domain.hashing import version_id
from backend.domain.ids import DatanetId, Hash32
from backend.domain.receipt import VersionRecord
from backend.services.contribute.published_answers import RETRY_SECONDS, PublishedAnswers
from tests.support.contributions import ALICE, BOB, ContributionHarness, jsonl
from tests.support.databases import version_row
from tests.support.fakes import NOW
from tests.support.market import some_hash

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import SnapshotId, VersionId

BASE = some_hash("base")
LEARNT = "A letter is a sign of the alphabet that stands for a sound, and words are written with letters."
GENERATED = "A number is a letter that the alphabet uses in place of words that are still to be written."
WRITTEN = "A verb is the word of a sentence that says what its subject does, and it changes with the tense."


def answers_file(num_answers: int, num_tokens: int = 1) -> bytes:
    """Answer n has the token n, `num_tokens` times."""
    ends = np.arange(1, num_answers + 1) * (num_tokens + 1)
    tokens = [[7, *[number] * num_tokens] for number in range(num_answers)]
    return save(
        {
            "token_ids": np.array(tokens, np.int64).ravel(),
            "prompt_ends": ends - num_tokens,
            "ends": ends,
            "seeds": np.arange(num_answers),
            "is_kept_out": np.zeros(num_answers, bool),
        }
    )


@dataclass
class Reader:
    """Reads published answers of a datanet whose only contribution answers `LEARNT`."""

    harness: ContributionHarness
    texts: Sequence[str] = (LEARNT, GENERATED)
    now: float = 0.0
    service: PublishedAnswers = field(init=False)
    snapshot: SnapshotId = field(init=False)

    def __post_init__(self) -> None:
        harness = self.harness
        first = harness.submit(jsonl({"prompt": "What is a letter?", "completion": LEARNT}))
        harness.record(first, 0, is_accepted=True)
        self.snapshot = harness.freeze(True)
        self.restart()

    def restart(self) -> None:
        harness = self.harness
        rows = harness.snapshots.stored_rows
        self.service = PublishedAnswers(
            harness.database, harness.store, rows, {BASE: self.decode}, lambda: self.now
        )

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str] | None:
        return [self.texts[answer[0]] for answer in answers]

    def register(
        self, content: bytes | None = None, name: str = "docs", *, is_stored: bool = True
    ) -> VersionRecord:
        """Register a version with a file of answers, which the catalogue has described."""
        files = {ANSWERS_FILE: answers_file(2) if content is None else content, "name": name.encode()}
        cid = self.harness.store.add_folder(files) if is_stored else self.harness.store.folder_cid(files)
        record = VersionRecord(
            ALICE.account, name, some_hash(name), cid_digest(cid), BASE, (self.snapshot,), 1, 1, 0, 0
        )
        self.add(version_row(version_id(record), record, 1))
        self.add(
            DescriptionRow(
                version_id=version_id(record), num_contributions=1, licences=[], metrics={}, search_text=""
            )
        )
        return record

    def add(self, row: object) -> None:
        with self.harness.database.begin() as tx:
            tx.session.add(row)

    def stored(self) -> list[VersionId]:
        with self.harness.database.read() as tx:
            return list(tx.session.scalars(select(PublishedAnswersRow.version_id)))

    def refused(self, *answers: str) -> list[int]:
        """Lines of an upload of these answers that are refused as generated."""
        prompts = ("a" * number + "?" for number in range(1, len(answers) + 1))
        rows = jsonl(*({"prompt": p, "completion": a} for p, a in zip(prompts, answers, strict=True)))
        report = self.harness.upload(rows, BOB).report
        assert {defect.code for defect in report.defects} <= {"generated_answer"}
        return [defect.line for defect in report.defects]


@pytest.fixture
def reader(sqlite_database: Database, tmp_path: Path) -> Reader:
    return Reader(ContributionHarness(sqlite_database, tmp_path))


def test_a_row_whose_answer_was_published_is_refused_and_named(database: Database, tmp_path: Path) -> None:
    """On SQLite and on PostgreSQL."""
    reader = Reader(ContributionHarness(database, tmp_path))
    record = reader.register()
    assert reader.refused(GENERATED) == [], "not read yet"
    reader.service.refresh()
    rows = jsonl({"prompt": "a?", "completion": WRITTEN}, {"prompt": "b?", "completion": GENERATED.upper()})
    whole = reader.harness.upload(rows, BOB)
    assert whole.state is UploadState.INVALID
    assert [(defect.line, defect.code, defect.message) for defect in whole.report.defects] == [
        (
            2,
            "generated_answer",
            f"its answer repeats an answer that adapter {version_id(record)} generated (number 1)",
        )
    ]
    part = reader.harness.upload(rows, BOB, accepts_partial=True)
    assert (part.state, part.report.num_rows, part.report.num_left_out) == (UploadState.DRAFT, 1, 1)


def test_answers_that_the_adapter_learnt_from_a_row_are_not_refused(reader: Reader) -> None:
    reader.register()
    reader.service.refresh()
    assert reader.refused(LEARNT, GENERATED, WRITTEN) == [2]


def test_each_assistant_turn_is_an_answer_and_what_the_user_says_is_none(reader: Reader) -> None:
    reader.register()
    reader.service.refresh()

    def chat(*contents: str) -> dict[str, object]:
        roles = ("system", "user", "assistant", "user", "assistant")[len(contents) % 2 == 0 :]
        return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}

    rows = jsonl(
        chat(GENERATED, WRITTEN),
        chat(GENERATED, "b?", WRITTEN),
        chat("c?", GENERATED, "d?", WRITTEN),
        chat("Be brief.", "e?", WRITTEN, "f?", GENERATED),
    )
    assert [defect.line for defect in reader.harness.upload(rows, BOB).report.defects] == [3, 4]


def test_answers_count_for_the_datanet_of_their_snapshot_only(reader: Reader) -> None:
    record = reader.register()
    reader.service.refresh()
    with reader.harness.database.read() as tx:
        found = tx.published_answers.of_datanet(DatanetId(1), 10)
        assert [one.version for one in found] == [version_id(record)]
        assert not tx.published_answers.of_datanet(DatanetId(2), 10)


def test_a_denied_adapter_and_one_that_a_reorganisation_dropped_refuse_nothing(reader: Reader) -> None:
    record = reader.register()
    reader.service.refresh()
    assert reader.refused(GENERATED) == [1]
    subject = Subject(Denied.ADAPTER, record.adapter_digest)
    with reader.harness.database.begin() as tx:
        tx.denials.put(Denial(subject, Reason.POLICY, NOW))
    assert reader.refused(GENERATED) == []
    with reader.harness.database.begin() as tx:
        tx.denials.remove(subject)
        tx.session.execute(delete(VersionRow))
    assert reader.refused(GENERATED) == []
    reader.add(version_row(version_id(record), record, 2))  # the next block has it again
    assert reader.refused(GENERATED) == [1]


def test_a_version_is_read_once(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.register()
    reader.service.refresh()
    before = reader.stored()
    monkeypatch.setattr(reader.harness.store, "read", lambda *_: pytest.fail("read again"))
    reader.service.refresh()
    reader.restart()
    reader.service.refresh()
    assert reader.stored() == before


def test_reading_goes_on_in_steps_and_a_killed_process_starts_again(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.contribute.published_answers.STEP_SECONDS", -1.0)  # one step
    reader.register()
    for _ in range(2):  # selects the version, reads its rows
        reader.service.refresh()
    assert not reader.stored(), "the rows were compared, and nothing is stored yet"
    reader.restart()
    assert not reader.stored()
    for _ in range(3):
        reader.service.refresh()
    assert reader.refused(LEARNT, GENERATED) == [2]


def test_a_version_whose_folder_is_gone_is_tried_again_later_and_does_not_hold_up_others(
    reader: Reader,
) -> None:
    missing = reader.register(is_stored=False)
    there = reader.register(name="other")
    reader.service.refresh()
    assert reader.stored() == [version_id(there)]
    files = {ANSWERS_FILE: answers_file(2), "name": b"docs"}
    assert reader.harness.store.add_folder(files) == cid_of(missing.cid_digest)
    reader.service.refresh()
    assert len(reader.stored()) == 1
    reader.now += RETRY_SECONDS + 1
    reader.service.refresh()
    assert sorted(reader.stored()) == sorted([version_id(there), version_id(missing)])


@pytest.mark.parametrize(
    "content",
    [b"no tensors", answers_file(MAX_ANSWERS + 1), answers_file(1, num_tokens=33), save({"a": np.zeros(1)})],
    ids=["no file of tensors", "too many answers", "too long an answer", "other tensors"],
)
def test_what_training_does_not_write_refuses_nothing_and_is_not_read_again(
    reader: Reader, content: bytes
) -> None:
    record = reader.register(content)
    reader.service.refresh()
    assert reader.stored() == [version_id(record)]
    assert reader.refused(GENERATED) == []


def test_versions_without_answers_and_of_other_base_models_refuse_nothing(reader: Reader) -> None:
    cid = reader.harness.store.add_folder({"README.md": b"a card"})
    older = replace(reader.register(name="first"), name="older", cid_digest=cid_digest(cid))
    foreign = replace(older, name="foreign", base_model=Hash32(some_hash("another base")))
    for record in (older, foreign):
        reader.add(version_row(version_id(record), record, 2))
        reader.add(
            DescriptionRow(
                version_id=version_id(record), num_contributions=0, licences=[], metrics={}, search_text=""
            )
        )
    reader.service.refresh()
    assert version_id(older) in reader.stored()
    assert version_id(foreign) not in reader.stored()


def test_without_a_tokenizer_nothing_is_stored(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "decode", lambda *_: None)
    reader.register()
    reader.restart()
    reader.service.refresh()
    assert not reader.stored()


def test_rows_that_were_withdrawn_are_left_out(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.harness.store.forget(*(cid for cid in _contents(reader)))
    with monkeypatch.context() as patch:  # an IPFS daemon would search for each of them
        patch.setattr(reader.harness.store, "open", pytest.fail)
        assert list(reader.harness.snapshots.stored_rows(reader.snapshot)) == []
    reader.register()
    reader.service.refresh()
    assert len(reader.stored()) == 1


def _contents(reader: Reader) -> list[str]:
    with reader.harness.database.read() as tx:
        return [cid_of(one.cid_digest) for one in tx.chain.contributions(DatanetId(1))]
