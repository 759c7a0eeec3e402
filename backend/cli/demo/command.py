"""The command: runs the story on a stack of its own and writes the report."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.demo.screen import Screen
from backend.settings import Settings, load_settings

if TYPE_CHECKING:
    from backend.cli.demo.books import AccountSummary
    from backend.cli.demo.story import Outcome, Story
    from backend.installation.installation import Installation

REPORT = Path("build/demo/report.json")
HOME = Path("build/demo/home")
NUM_STEPS = 8
KEPT_SETTINGS = ("LORALEDGER_MODEL_CACHE", "LORALEDGER_ENGINE_THREADS", "LORALEDGER_TRAINER_THREADS")
HYPERPARAMETERS: dict[str, Any] = {}
"""The defaults: they suit a few hundred short rows on two cores."""


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    *,
    max_rows: Annotated[int, typer.Option(help="Rows of each contribution.", min=16)] = 60,
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = REPORT,
) -> None:
    """Run the value loop on this machine, on real parts, and check it against the chain.

    With DEMO_KEEP=1 the stack stays up afterwards.
    """
    from backend.cli.demo.stack import DemoStack
    from backend.cli.demo.story import Story
    from backend.installation.installation import Installation

    settings = load_settings()
    _forget_settings()
    home = HOME.resolve()
    environment = {
        "LORALEDGER_MODEL_CACHE": str(settings.model_cache.resolve()),
        "LORALEDGER_BATCH_SECONDS": "3",
    }
    keep = os.environ.get("DEMO_KEEP", "") not in {"", "0"}
    report.unlink(missing_ok=True)
    screen = Screen(NUM_STEPS)
    with ExitStack() as stack:
        with screen.step("stack", "The local stack starts"):
            facts = stack.enter_context(DemoStack(home, environment, keep=keep))
            screen.say(f"API {facts['api']}, chain {facts['rpc']}, {len(facts['contracts'])} contracts")
        installation = Installation(Settings(home=home, rpc_url=facts["rpc"]))
        stack.callback(installation.close)
        story = Story(facts, installation, screen, max_rows)
        stack.callback(story.close)
        books = _play(story, screen)
        found = _report(story, books, screen)
        found |= (
            {"stack": {name: facts[name] for name in ("api", "rpc", "contracts", "home")}} if keep else {}
        )
        found |= _chain_facts(installation)
    _write(report, found)
    _show(screen, story, books, found)
    screen.console.print(f"\nThe report is in {report}.")
    if not found["ok"]:
        raise typer.Exit(1)


def _forget_settings() -> None:
    """The demo is a market of its own: not with this installation's database, store or keys."""
    for name in [name for name in os.environ if name.startswith("LORALEDGER_") and name not in KEPT_SETTINGS]:
        del os.environ[name]


def _play(story: Story, screen: Screen) -> AccountSummary:
    with screen.step("contribute", "Three contributors bring data; two datanets are frozen"):
        snapshots = story.contribute()
    with screen.step("train", "A creator trains an adapter on each, publishes and registers both"):
        story.train(snapshots, HYPERPARAMETERS)
    with screen.step("ask", "A consumer asks both adapters and the base, all at once"):
        story.ask()
    with screen.step("settle", "The operator settles; the dispute window passes"):
        story.settle()
    with screen.step("claim", "Every contributor claims"):
        story.claim()
    with screen.step("vote", "A vote changes the protocol fee; the next batch is made under it"):
        story.vote()
        story.ask_again()
        number = story.settle()
        story.claim()
    with screen.step("audit", "Every unit is recomputed; the contract verifies a receipt and an entry"):
        return story.close_books(number)


def _report(story: Story, books: AccountSummary, screen: Screen) -> dict[str, Any]:
    """Amounts in micro-units, as integers."""
    outcome = story.outcome
    charged = sum(outcome.charged_by_payer.values())
    receipts = len({answer.receipt_id for answer in outcome.answers})
    balanced = books.is_balanced and charged == books.collected
    return {
        "ok": balanced and receipts == len(outcome.answers) and _is_fulfilled(outcome, books),
        "balanced": balanced,
        "contributors": outcome.contributors,
        "adapters": [
            {
                "version_id": adapter.version_id,
                "digest": adapter.digest,
                "cid": adapter.cid,
                "eval_loss_base": adapter.eval_loss_base,
                "eval_loss_adapter": adapter.eval_loss_adapter,
                "trained_tokens": adapter.num_trained_tokens,
                "training_charge": adapter.charge,
            }
            for adapter in outcome.adapters
        ],
        "answers": len(outcome.answers),
        "receipts": receipts,
        "charged": charged,
        "charged_for_training": sum(adapter.charge for adapter in outcome.adapters),
        "collected": books.collected,
        "credited": books.credited,
        "claimed": books.claimed,
        "verified_on_chain": outcome.verified,
        "vote": {
            "proposal_id": outcome.proposal_id,
            "before": outcome.fee_before,
            "after": outcome.fee_after,
        },
        "seconds": screen.seconds,
    }


def _is_fulfilled(outcome: Outcome, books: AccountSummary) -> bool:
    """What the loop is for: contributors paid, adapters worth it, a vote that the next batch obeys."""
    return (
        all(outcome.verified.values())
        and all(books.claimed.get(account, 0) > 0 for account in outcome.contributors)
        and all(adapter.eval_loss_adapter < adapter.eval_loss_base for adapter in outcome.adapters)
        and outcome.fee_before != outcome.fee_after
    )


def _chain_facts(installation: Installation) -> dict[str, int]:
    """Counted block by block: also what wallets sent themselves."""
    head = installation.chain.head().number
    first = installation.deployment.block_number
    node = installation.chain.node
    transactions = sum(node.num_block_transactions(number) for number in range(first, head + 1))
    return {"transactions": transactions, "deployment_block": first, "head_block": head}


def _write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(found, indent=2) + "\n")
    draft.replace(path)


def _show(screen: Screen, story: Story, books: AccountSummary, found: dict[str, Any]) -> None:
    from backend.cli.demo.tables import answers_table, money_table

    screen.console.print(answers_table(story.outcome))
    screen.console.print(money_table(story.names(), books, story.outcome.charged_by_payer))
    verdict = "[green]balanced to the last unit[/green]" if found["ok"] else "[red]does not balance[/red]"
    screen.console.print(f"\nThe books: {verdict}. {found['transactions']} transactions on chain.")
