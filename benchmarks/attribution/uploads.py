"""Passes an attacker's rows through the check that every upload passes, next to the honest rows; and measures
how many rows made of an adapter's answers it refuses, and how many honest ones.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.db.base import Base
from backend.db.tables import load_all
from backend.db.tables.chain import VersionRow
from backend.db.unit_of_work import Database
from backend.domain.contribution import Report, Upload, UploadState
from backend.domain.ids import ZERO_HASH, Account, DatanetId, VersionId
from backend.services.contribute.check_upload import COPY_CODES, UploadCheck
from backend.services.contribute.repeated_answers import (
    GENERATED,
    AnswerIndex,
    shingle_answers,
    without_answers,
)
from backend.services.contribute.staging import Staging
from backend.services.contribute.uploads import claim_rows
from backend.settings import Settings
from benchmarks.attribution.attacks import completion, paraphrase, replace_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from backend.domain.published_answers import AnswerShingles
    from benchmarks.attribution.study import Plan
    from workers.training.rows import Example

MAX_BYTES = 1 << 24
DATANET = DatanetId(1)
VERSION = VersionId(ZERO_HASH)


@dataclass(frozen=True, slots=True)
class Admission:
    """Of `num_rows` uploaded rows, `num_refused` are refused as copies or generated answers, and `num_near`
    others are reported to curators as near copies of other contributions.
    """

    num_rows: int
    num_refused: int
    num_near: int


def admit(
    known: Sequence[Example],
    added: Sequence[Example],
    published: Sequence[str],
    tokenizer: Any,
    work: Path,
) -> Admission:
    """Check `added` against a datanet with the rows `known`, of which an adapter published the answers
    `published`, in the scratch folder `work`. Without added rows there is nothing to check.
    """
    if not added:
        return Admission(0, 0, 0)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    load_all()
    database = Database.open(f"sqlite:///{work / 'rows.db'}")
    try:
        Base.metadata.create_all(database.engine)
        staging = Staging(work / "staging", MAX_BYTES)
        check = UploadCheck(database, staging, lambda _texts: None, Settings().refused_kinds)
        _check(check, "known", list(_lines(known, tokenizer)))
        claim_rows(database, "known")
        _publish(database, compared_answers(published, known, tokenizer))
        report = _check(check, "added", list(_lines(added, tokenizer)))
    finally:
        database.close()
    shutil.rmtree(work)
    refused = sum(count for code, count in report.defect_counts.items() if code in {*COPY_CODES, GENERATED})
    return Admission(len(added), refused, report.near_copies.num_in_datanet if report.near_copies else 0)


def _check(check: UploadCheck, name: str, lines: Sequence[bytes]) -> Report:
    account = Account("0x" + "11" * 20)
    upload = Upload(name, account, DATANET, "rows", UploadState.CHECKING, datetime.now(UTC), Report("MIT"))
    with check.db.begin() as tx:
        tx.contributions.add(upload)
    return check.report(upload, lines, accepts_partial=True)


def compared_answers(published: Sequence[str], known: Sequence[Example], tokenizer: Any) -> AnswerShingles:
    """Published answers that uploads are compared with: those that no known row taught the adapter."""
    found = shingle_answers(VERSION, published)
    learnt = AnswerIndex([found]).repeated_by([completion(row, tokenizer) for row in known])
    return without_answers(found, learnt)


def measure_repeats(plan: Plan) -> dict[str, Any]:
    """How the check of uploads judges rows whose answers are the adapter's, as they are and in other words,
    and honest rows of the same contributors that no run was trained on.

    The answers are the generated ones of the study, which follow other prompts than those that training
    publishes. Errors: `FileNotFoundError` before the study was trained, `OtherStudy`.
    """
    study, tokenizer = plan.study, plan.tokenizer
    texts = [
        tokenizer.decode(answer.answer, skip_special_tokens=True).strip()
        for answer in plan.require_truth().answers
        if answer.kind == "generated"
    ]
    compared = compared_answers(texts, study.rows, tokenizer)
    index = AnswerIndex([compared])
    copied = [text for place, text in enumerate(texts) if place in index.find(texts)]
    honest = [completion(row, tokenizer) for row in (*study.held_out, *study.prompts, *study.spare)]
    trained = [completion(row, tokenizer) for row in study.rows]
    changes = _changes(trained).items()
    return {
        "study": plan.name,
        "num_answers": len(texts),
        "num_copied": len(copied),
        "num_bytes": len(compared.shingles) + len(compared.lengths),
        "num_honest": len(honest),
        "num_honest_refused": len(index.find(honest)),
        "num_trained": len(trained),
        "num_trained_refused": len(index.find(trained)),
        "found": [[name, len(index.find([change(text) for text in copied]))] for name, change in changes],
    }


def _changes(trained: Sequence[str]) -> Mapping[str, Callable[[str], str]]:
    """What an attacker does to a published answer, by name."""
    words = " ".join(trained).split()
    rng = random.Random(0)  # noqa: S311 - rows of a benchmark

    def lengthen(text: str) -> str:
        return f"{text} {' '.join(rng.choices(words, k=len(text.split())))}"

    def replace_share(share: float) -> Callable[[str], str]:
        return lambda text: replace_words(text, share, words, rng)

    return {
        "as they are": str,
        "twice as long": lengthen,
        "a tenth of the words replaced": replace_share(0.1),
        "a fifth of the words replaced": replace_share(0.2),
        "a third of the words replaced": replace_share(1 / 3),
        "paraphrased by rules": paraphrase,
    }


def _publish(database: Database, answers: AnswerShingles) -> None:
    zeros = dict.fromkeys(("promptPrice", "completionPrice", "operatorPpm", "creatorPpm"), 0)
    record = {"adapterDigest": ZERO_HASH, "baseModel": ZERO_HASH, **zeros}
    version = VersionRow(
        id=VERSION, creator="0x" + "22" * 20, name="honest", record=record, is_deprecated=False
    )
    version.block_number, version.log_index = 1, 0
    with database.begin() as tx:
        tx.session.add(version)
        tx.published_answers.put(answers, [DATANET])


def _lines(rows: Sequence[Example], tokenizer: Any) -> Iterator[bytes]:
    for row in rows:
        yield json.dumps({"prompt": row.group, "completion": completion(row, tokenizer)}).encode() + b"\n"
