"""`loraledger demo`: runs the scenario on a separate stack and writes a report."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.disk.files import write_durably

if TYPE_CHECKING:
    from backend.cli.operator.demo.reconciliation import Reconciliation
    from backend.cli.operator.demo.scenario import Outcome, Scenario
    from backend.cli.operator.demo.screen import Screen
    from backend.installation.installation import Installation

REPORT = Path("build/demo/report.json")
HOME = Path("build/demo/home")
NUM_STEPS = 8
KEPT_SETTINGS = ("LORALEDGER_MODEL_CACHE", "LORALEDGER_ENGINE_THREADS", "LORALEDGER_TRAINER_THREADS")
HYPERPARAMETERS: dict[str, Any] = {}
"""Empty: the defaults suit a few hundred short rows on two cores."""


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    *,
    max_rows: Annotated[int, typer.Option(help="Most rows of each contribution.", min=16)] = 36,
    report: Annotated[Path, typer.Option(help="File to write the report to.")] = REPORT,
) -> None:
    """Run the value loop on a local stack, and verify the result against the chain.

    DEMO_KEEP=1 leaves the stack running.
    """
    from backend.cli.operator.demo.scenario import Scenario
    from backend.cli.operator.demo.screen import Screen
    from backend.cli.operator.demo.stack import DemoStack
    from backend.installation.installation import Installation
    from backend.settings import Settings, load_settings

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
        with screen.step("stack", "Start the local stack"):
            facts = stack.enter_context(DemoStack(home, environment, keep=keep))
            screen.say(f"API {facts['api']}, chain {facts['rpc']}, {len(facts['contracts'])} contracts")
        installation = Installation(Settings(home=home, rpc_url=facts["rpc"]))
        stack.callback(installation.close)
        scenario = Scenario(facts, installation, screen, max_rows)
        stack.callback(scenario.close)
        reconciliation = _run(scenario, screen)
        result = _report(scenario, reconciliation, screen)
        result |= (
            {"stack": {name: facts[name] for name in ("api", "rpc", "contracts", "home")}} if keep else {}
        )
        result |= _chain_facts(installation)
    report.parent.mkdir(parents=True, exist_ok=True)
    write_durably(report, json.dumps(result, indent=2) + "\n")
    _show(screen, scenario, reconciliation, result)
    screen.console.print(f"\nReport written to {report}.")
    if not result["ok"]:
        raise typer.Exit(1)


def _forget_settings() -> None:
    """Clear settings from the environment: the demo must not use this installation's database or keys."""
    for name in [name for name in os.environ if name.startswith("LORALEDGER_") and name not in KEPT_SETTINGS]:
        del os.environ[name]


def _run(scenario: Scenario, screen: Screen) -> Reconciliation:
    with screen.step("contribute", "Three contributors upload data; two datanets are frozen"):
        snapshots = scenario.contribute()
    with screen.step("train", "A creator trains an adapter on each, publishes and registers both"):
        scenario.train(snapshots, HYPERPARAMETERS)
    with screen.step("ask", "A consumer asks both adapters and the base model concurrently"):
        scenario.ask()
    with screen.step("settle", "The operator settles; the dispute window passes"):
        scenario.settle()
    with screen.step("claim", "Every contributor claims"):
        scenario.claim()
    with screen.step("vote", "A vote changes the protocol fee; the next batch uses it"):
        scenario.vote()
        scenario.ask_again()
        number = scenario.settle()
        scenario.claim()
    with screen.step("audit", "Every unit is recomputed; the contract verifies a receipt and an entry"):
        return scenario.reconcile(number)


def _report(scenario: Scenario, reconciliation: Reconciliation, screen: Screen) -> dict[str, Any]:
    """Amounts are integers, in micro-units."""
    outcome = scenario.outcome
    charged = sum(outcome.charged_by_payer.values())
    receipts = len({answer.receipt_id for answer in outcome.answers})
    balanced = reconciliation.is_balanced and charged == reconciliation.collected
    is_complete = receipts == len(outcome.answers) and _has_succeeded(outcome, reconciliation)
    return {
        "ok": balanced and is_complete,
        "balanced": balanced,
        "contributors": outcome.contributors,
        "adapters": [
            {
                "version_id": adapter.version_id,
                "digest": adapter.digest,
                "cid": adapter.cid,
                "eval_loss_base": adapter.eval_loss_base,
                "eval_loss_adapter": adapter.eval_loss_adapter,
                "trained_tokens": adapter.num_charged_tokens,
                "training_charge": adapter.charge,
            }
            for adapter in outcome.adapters
        ],
        "answers": len(outcome.answers),
        "receipts": receipts,
        "charged": charged,
        "charged_for_training": sum(adapter.charge for adapter in outcome.adapters),
        "collected": reconciliation.collected,
        "credited": reconciliation.credited,
        "claimed": reconciliation.claimed,
        "verified_on_chain": outcome.verified,
        "vote": {
            "proposal_id": outcome.proposal_id,
            "before": outcome.fee_before,
            "after": outcome.fee_after,
        },
        "seconds": screen.seconds,
    }


def _has_succeeded(outcome: Outcome, reconciliation: Reconciliation) -> bool:
    """Whether contributors were paid, both adapters beat the base, and the next batch used the new fee."""
    return (
        all(outcome.verified.values())
        and all(reconciliation.claimed.get(account, 0) > 0 for account in outcome.contributors)
        and all(adapter.eval_loss_adapter < adapter.eval_loss_base for adapter in outcome.adapters)
        and outcome.fee_before != outcome.fee_after
    )


def _chain_facts(installation: Installation) -> dict[str, int]:
    """Transactions are counted block by block, to include those that wallets sent themselves."""
    head = installation.chain.head().number
    first = installation.deployment.block_number
    node = installation.chain.node
    transactions = sum(node.num_block_transactions(number) for number in range(first, head + 1))
    return {"transactions": transactions, "deployment_block": first, "head_block": head}


def _show(screen: Screen, scenario: Scenario, reconciliation: Reconciliation, report: dict[str, Any]) -> None:
    from backend.cli.operator.demo.tables import answers_table, money_table

    screen.console.print(answers_table(scenario.outcome))
    screen.console.print(money_table(scenario.names(), reconciliation, scenario.outcome.charged_by_payer))
    verdict = "[green]balanced to the last unit[/green]" if report["ok"] else "[red]not balanced[/red]"
    screen.console.print(f"\nAccounts: {verdict}. {report['transactions']} transactions on chain.")
