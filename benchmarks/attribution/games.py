"""Plays attacks with retraining: an adapter is trained on the manipulated rows, answers the study's prompts,
and its answers are attributed by its own index. What attackers earned is stored game by game, so that a
killed run resumes.
"""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from backend.disk.files import write_durably
from backend.domain.money import PPM
from benchmarks.attribution.answers import answer_losses, generate_answers
from benchmarks.attribution.attacks import ATTACKS, Setting, published_texts, split
from benchmarks.attribution.measure import as_paid
from benchmarks.attribution.methods import score_methods
from benchmarks.attribution.retrain import Run, load_weights, make_model, retrain_reference
from benchmarks.attribution.signals import Trained, read_signals
from benchmarks.attribution.truth import require_study
from benchmarks.attribution.uploads import Admission, admit
from workers.training.rows import IGNORED, Example, last_answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.attribution.signals import StudySignals
    from benchmarks.attribution.study import Plan
    from workers.training.progress import Emit

HONEST, TEN_WALLETS = "none", "ten wallets"
RANKS = (0.5, 0.0, 1.0)
"""Of the attackers among the contributors by rising number of rows: the median, the fewest, the most."""


@dataclass(frozen=True, slots=True)
class Game:
    """`attacker` is the contributor that attacks, or whose rows are copied; None for the honest training."""

    attack: str
    attacker: int | None
    seed: int

    @property
    def name(self) -> str:
        return f"{self.attack}-{self.attacker}-{self.seed}".replace(" ", "_")


@dataclass(frozen=True, slots=True)
class Played:
    """`shares` has the mean share in ppm of each contribution over the answers, by method. `wallets` are the
    attacker's contributions; after a copy, the original's and the copier's. `admission` is what the check of
    uploads says of the added rows. `influence` is the part of training's effect that is theirs: what the
    answers' log-probability gains because of them, relative to what it gains by training at all.
    """

    game: Game
    num_rows: int
    num_answers: int
    wallets: tuple[int, ...]
    shares: Mapping[str, tuple[int, ...]]
    admission: Admission | None
    influence: float | None


def planned_games(plan: Plan, num_seeds: int) -> Iterator[Game]:
    """The contributors at `RANKS` attack, one after the other."""
    counts = [len(plan.study.rows_of([each])) for each in range(len(plan.study.names))]
    ordered = sorted(range(len(counts)), key=lambda each: (counts[each], each))
    attackers = [ordered[round(rank * (len(ordered) - 1))] for rank in RANKS]
    for seed in range(num_seeds):
        yield Game(HONEST, None, seed)
        for attacker in attackers:
            yield from (Game(attack, attacker, seed) for attack in (TEN_WALLETS, *ATTACKS))


def play(plan: Plan, num_seeds: int, emit: Emit) -> list[Played]:
    """All games; those in the plan's file are not played again. Errors: `OtherStudy`."""
    played = read_games(plan)
    for game in planned_games(plan, num_seeds):
        if game not in {each.game for each in played}:
            emit("game", {"study": plan.name, **asdict(game)})
            played.append(_play(plan, game, emit))
            _write(plan, played)
    return played


def _play(plan: Plan, game: Game, emit: Emit) -> Played:
    num_contributors = len(plan.study.names)
    tokenizer = plan.tokenizer
    honest = _train(plan, Game(HONEST, None, game.seed), plan.study.rows, emit)
    influence, admission = None, None
    wallets = [] if game.attacker is None else [game.attacker]
    if game.attacker is None:
        signals, rows = _signals(plan, honest, emit), list(plan.study.rows)
    elif game.attack == TEN_WALLETS:  # other owners of the same rows: training is the same
        signals = _signals(plan, honest, emit)
        rows = split(plan.study.rows, game.attacker, num_contributors)
        wallets += sorted({row.contribution for row in rows} - set(range(num_contributors)))
    else:
        attack = ATTACKS[game.attack]
        setting = Setting(plan.study, tokenizer, _signals(plan, honest, emit))
        owner = num_contributors if attack.is_copy else game.attacker
        wallets = sorted({game.attacker, owner})
        added = [replace(row, contribution=owner) for row in attack.added(setting, game.attacker)]
        published = published_texts(setting)
        admission = admit(plan.study.rows, added, published, tokenizer, plan.work / "uploads")
        rows = [*plan.study.rows, *added]
        trained = _train(plan, game, rows, emit)
        signals = _signals(plan, trained, emit)
        influence = _influence(plan, honest, trained)
        shutil.rmtree(trained.work)
    shares = _mean_shares(signals, [row.contribution for row in rows])
    return Played(game, len(rows), len(signals.answers.hidden), tuple(wallets), shares, admission, influence)


def _train(plan: Plan, game: Game, rows: Sequence[Example], emit: Emit) -> Trained:
    """The adapter of a game, trained unless it is already."""
    work = plan.work / "games" / game.name
    work.mkdir(parents=True, exist_ok=True)
    everyone = tuple(sorted({row.contribution for row in rows}))
    retrain_reference(Run(everyone, game.seed), rows, plan.base, work, emit)
    return Trained(plan.base, work, rows, plan.study.preamble, plan.num_threads)


def _influence(plan: Plan, honest: Trained, trained: Trained) -> float:
    """See `Played`; on the answers of `trained`, whose rows are those of `honest` and others."""
    answers = _answers(plan, trained)
    model = make_model(plan.base)
    losses = []
    for each in (trained, honest):
        load_weights(model, each.work)
        losses.append(sum(answer_losses(model, answers)))
    with model.disable_adapter():
        untrained = sum(answer_losses(model, answers))
    return (losses[1] - losses[0]) / (untrained - losses[0])


def _signals(plan: Plan, trained: Trained, emit: Emit) -> StudySignals:
    return read_signals(trained, _answers(plan, trained), emit)


def _answers(plan: Plan, trained: Trained) -> list[Example]:
    """What the adapter answers to the study's prompts."""
    file = trained.work / "answers.json"
    prompts = [last_answer(row)[0] for row in plan.study.prompts]
    if not file.exists():
        found = generate_answers(trained, prompts)
        file.write_text(json.dumps(found))
    return [
        Example(-1, "", (*prompt, *answer), (*(IGNORED for _ in prompt), *answer))
        for prompt, answer in zip(prompts, json.loads(file.read_bytes()), strict=True)
    ]


def _mean_shares(signals: StudySignals, contributions: Sequence[int]) -> dict[str, tuple[int, ...]]:
    methods = score_methods(signals, contributions)
    return {
        name: tuple(round(share) for share in as_paid(each.scores).mean(0))
        for name, each in methods.items()
        if not each.is_variant
    }


def report_games(plan: Plan, played: Sequence[Played]) -> dict[str, Any]:
    """What attackers gained. Errors: `ValueError` without the honest training."""
    if not played:
        raise ValueError(f"{plan.name}: no games were played")
    attackers = {each.game.attacker for each in played if each.game.attacker is not None}
    return {
        "study": plan.name,
        "num_seeds": len({each.game.seed for each in played}),
        "attackers": {plan.study.names[each]: len(plan.study.rows_of([each])) for each in sorted(attackers)},
        "num_answers": played[0].num_answers,
        "noise": noise(played),
        "attacks": gains(played),
    }


def gains(played: Sequence[Played]) -> dict[str, dict[str, Any]]:
    """By attack: `gain` by method, the part of the pool that the attacker's wallets have minus the attacker's
    in the honest training with the same seed, as the mean and the largest of the games; the mean `influence`
    of the added rows; and how many of them the check of uploads refuses and reports.
    """
    fair = {each.game.seed: each.shares for each in played if each.game.attack == HONEST}
    found: dict[str, dict[str, Any]] = {}
    for attack in (TEN_WALLETS, *ATTACKS):
        games = [each for each in played if each.game.attack == attack]
        if not games:
            continue
        by_method = {
            method: [_gain(each, fair[each.game.seed], method) for each in games]
            for method in games[0].shares
        }
        influences = [each.influence for each in games if each.influence is not None]
        admissions = [each.admission for each in games if each.admission is not None]
        found[attack] = {
            "num_games": len(games),
            "influence": statistics.fmean(influences) if influences else None,
            "gain": {
                method: {"mean": statistics.fmean(each), "worst": max(each)}
                for method, each in by_method.items()
            },
            "num_added": sum(each.num_rows for each in admissions),
            "num_refused": sum(each.num_refused for each in admissions),
            "num_near": sum(each.num_near for each in admissions),
        }
    return found


def noise(played: Sequence[Played]) -> dict[str, float]:
    """By method: the mean absolute change of the part of a contributor that does nothing, out of what the
    attacker leaves, between the honest training and one with an attack. Other batches alone cause it.
    """
    fair = {each.game.seed: each.shares for each in played if each.game.attack == HONEST}
    retrained = [each for each in played if each.game.attack in ATTACKS]
    return {
        method: statistics.fmean(
            change for each in retrained for change in _changes(each, fair[each.game.seed], method)
        )
        for method in (retrained[0].shares if retrained else ())
    }


def _changes(each: Played, fair: Mapping[str, tuple[int, ...]], method: str) -> list[float]:
    others = [place for place in range(len(fair[method])) if place not in each.wallets]
    before, after = ([shares[method][place] for place in others] for shares in (fair, each.shares))
    left = sum(before) / sum(after)
    return [abs(new * left - old) / PPM for old, new in zip(before, after, strict=True)]


def _gain(each: Played, fair: Mapping[str, tuple[int, ...]], method: str) -> float:
    own = sum(each.shares[method][wallet] for wallet in each.wallets)
    before = fair[method][each.wallets[0]]
    return (own - before) / PPM


def read_games(plan: Plan) -> list[Played]:
    """The games that were played. Errors: `OtherStudy`."""
    path = _file(plan)
    if not path.exists():
        return []
    found = json.loads(path.read_bytes())
    require_study(found, path, plan.study.digest, plan.base.name)
    return parse_games(found)


def parse_games(stored: Mapping[str, Any]) -> list[Played]:
    """The games of a file that `play` wrote."""
    return [
        Played(
            Game(**each["game"]),
            each["num_rows"],
            each["num_answers"],
            tuple(each["wallets"]),
            {method: tuple(shares) for method, shares in each["shares"].items()},
            each["admission"] and Admission(**each["admission"]),
            each["influence"],
        )
        for each in stored["games"]
    ]


def _file(plan: Plan) -> Path:
    return plan.truths / f"{plan.name}-gaming.json"


def _write(plan: Plan, played: Sequence[Played]) -> None:
    path = _file(plan)
    games = ",\n ".join(json.dumps(asdict(each), sort_keys=True, separators=(",", ":")) for each in played)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f'"study": {json.dumps(plan.study.digest)},\n"base_model": {json.dumps(plan.base.name)}'
    write_durably(path, f'{{{head},\n"games": [\n {games}\n]}}\n')
