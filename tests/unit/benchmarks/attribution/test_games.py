from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from backend.domain.attribution import DISTILLED_METHOD, ROWS_METHOD
from backend.domain.money import PPM
from benchmarks.attribution.attacks import ATTACKS, NUM_WALLETS, VAGUE, Attack, paraphrase, split, vague
from benchmarks.attribution.games import HONEST, TEN_WALLETS, Game, Played, gains, noise, parse_games, play
from benchmarks.attribution.page import read
from benchmarks.attribution.truth import OtherStudy
from benchmarks.attribution.uploads import Admission
from tests.unit.benchmarks.attribution.support import NUM_ROWS, ignore
from workers.training.rows import Example

if TYPE_CHECKING:
    from benchmarks.attribution.attacks import Setting
    from benchmarks.attribution.study import Plan


def two_copies(setting: Setting, attacker: int) -> list[Example]:
    return setting.study.rows_of([attacker])[:2]


def test_the_published_table_is_that_of_the_stored_games() -> None:
    played = parse_games(json.loads(Path("docs/attribution/docstrings-gaming.json").read_bytes()))
    report = read(Path("docs"))
    assert report is not None
    assert report["games"]["attacks"] == gains(played)
    assert report["games"]["noise"] == noise(played)


@pytest.mark.deep
def test_attacks_are_played_once_and_earn_shares(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    along = ("answers along the mean gradient", "answers along the mean probe")
    attacks = {"copy": Attack(two_copies, is_copy=True), **{name: ATTACKS[name] for name in along}}
    monkeypatch.setattr("benchmarks.attribution.games.ATTACKS", attacks)
    monkeypatch.setattr("benchmarks.attribution.games.RANKS", (0.0,))
    monkeypatch.setattr("benchmarks.attribution.attacks.NUM_ADDED", 3)
    played = play(plan, 1, ignore)
    assert [each.game.attack for each in played] == [HONEST, TEN_WALLETS, *attacks]
    assert {each.num_answers for each in played} == {len(plan.study.prompts)}
    for each in played:
        assert all(sum(shares) == pytest.approx(PPM, abs=50) for shares in each.shares.values())
    copy = next(each for each in played if each.game == Game("copy", 3, 0))  # glass has the fewest rows
    assert (copy.wallets, copy.num_rows) == ((3, len(NUM_ROWS)), sum(NUM_ROWS.values()) + 2)
    assert copy.admission == Admission(2, 2, 0)
    assert copy.influence is not None
    before = plan.truths / "tiny-gaming.json"
    stored = before.read_bytes()
    assert play(plan, 1, ignore) == played
    assert before.read_bytes() == stored
    found = gains(played)
    assert found["copy"]["num_games"] == 1
    assert found["copy"]["gain"][ROWS_METHOD]["mean"] > 0
    assert found[TEN_WALLETS]["gain"][ROWS_METHOD]["mean"] == pytest.approx(0, abs=1e-5)
    before.write_bytes(stored.replace(plan.study.digest.encode(), b"0" * 64))
    with pytest.raises(OtherStudy):
        play(plan, 1, ignore)


def test_a_gain_is_against_the_honest_training_of_the_same_seed() -> None:
    def shares(*parts: int) -> dict[str, tuple[int, ...]]:
        return {DISTILLED_METHOD: parts}

    copied, near = Admission(1, 1, 0), Admission(1, 0, 1)
    played = [
        Played(Game(HONEST, None, 0), 2, 1, (), shares(400_000, 400_000, 200_000), None, None),
        Played(Game(HONEST, None, 1), 2, 1, (), shares(300_000, 500_000, 200_000), None, None),
        Played(Game("copy", 1, 0), 3, 1, (1, 3), shares(300_000, 300_000, 200_000, 200_000), copied, 0.1),
        Played(Game("copy", 1, 1), 3, 1, (1, 3), shares(300_000, 250_000, 200_000, 250_000), near, 0.3),
    ]
    found = gains(played)["copy"]
    assert found["gain"][DISTILLED_METHOD] == {"mean": pytest.approx(0.05), "worst": pytest.approx(0.1)}
    assert (found["num_added"], found["num_refused"], found["num_near"]) == (2, 1, 1)
    assert found["influence"] == pytest.approx(0.2)
    # Of what the first copy leaves, the others have 60 % and 40 %, and not two thirds and a third.
    assert noise(played) == {DISTILLED_METHOD: pytest.approx(0.02)}


def test_ten_wallets_share_the_rows_of_one() -> None:
    rows = [Example(place % 2, "", (number,), (number,)) for number, place in enumerate(range(24))]
    found = split(rows, 1, 2)
    assert [replace(row, contribution=0) for row in found] == [replace(row, contribution=0) for row in rows]
    assert {row.contribution for row in found} == {0, 1, *range(2, 1 + NUM_WALLETS)}
    assert [row.contribution for row in found[::2]] == [0] * 12


def test_vague_answers_are_to_questions_of_others(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    from benchmarks.attribution.attacks import Setting, completion
    from benchmarks.attribution.signals import Signals, StudySignals

    monkeypatch.setattr("benchmarks.attribution.attacks.NUM_ADDED", 4)
    none = Signals(torch.zeros(0), torch.zeros(0), torch.zeros(0))
    tokenizer = AutoTokenizer.from_pretrained(plan.base.folder)
    rows = vague(Setting(plan.study, tokenizer, StudySignals(none, none, none, ())), 1)
    own = {row.group for row in plan.study.rows if row.contribution == 1}
    assert len(rows) == 4
    assert not own & {row.group for row in rows}
    assert {completion(row, tokenizer) for row in rows} == {VAGUE}
    assert paraphrase("It returns the value") == "It gives back this value"
