"""The demo's value loop on services that settings name: PostgreSQL, RabbitMQ, S3 and Web3Signer.

The first two are real servers, the others the doubles of `tests/support/`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import boto3
import psycopg
import pytest
from kombu import Connection

from backend.chain.local_keys import local_private_key
from backend.chain.local_node import ROOT
from backend.cli.operator.demo import command
from backend.cli.operator.demo.scenario import Scenario
from backend.cli.operator.demo.screen import Screen
from backend.cli.operator.demo.stack import DemoStack
from backend.installation.installation import Installation
from backend.settings import Settings
from tests.support.aws import aws_server, new_bucket
from tests.support.servers import postgres_schema, rabbitmq_server
from tests.support.signers import web3signer
from workers.app import QUEUES

if TYPE_CHECKING:
    from pathlib import Path

OPERATOR = 1
pytestmark = [pytest.mark.deep, pytest.mark.timeout(3600)]


def test_the_value_loop_runs_on_services_by_settings_alone(
    tmp_path: Path, postgres_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as parts:
        database = parts.enter_context(postgres_schema(postgres_uri))
        broker = parts.enter_context(rabbitmq_server())
        bucket = new_bucket(parts.enter_context(aws_server()), monkeypatch)
        signer = parts.enter_context(web3signer([bytes.fromhex(local_private_key(OPERATOR)[2:])]))
        named = {
            "database_url": database,
            "broker_url": broker,
            "s3_url": f"s3://{bucket}/market",
            "operator_signer": f"web3signer+{signer}",
        }
        cache = os.environ.get("LORALEDGER_MODEL_CACHE", str(ROOT / ".loraledger" / "cache" / "models"))
        environment = {f"LORALEDGER_{name.upper()}": value for name, value in named.items()}
        environment |= {"LORALEDGER_MODEL_CACHE": cache, "LORALEDGER_BATCH_SECONDS": "3"}
        home = tmp_path / "home"
        facts = parts.enter_context(DemoStack(home, environment, keep=False))
        installation = Installation(Settings.model_validate({"home": home, "rpc_url": facts["rpc"], **named}))
        parts.callback(installation.close)
        screen = Screen(command.NUM_STEPS)
        scenario = Scenario(facts, installation, screen, max_rows=16)
        parts.callback(scenario.close)
        result = command._report(scenario, command._run(scenario, screen), screen)
        assert result["ok"], result

        with psycopg.connect(database) as rows:
            (receipts,) = rows.execute("SELECT count(*) FROM receipts").fetchone() or (0,)
        assert receipts >= result["receipts"]
        with Connection(broker) as connection:
            for queue in QUEUES:
                connection.default_channel.queue_declare(queue, passive=True)
        stored = boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
        cids = {each["Key"].removeprefix("market/").removesuffix(".car") for each in stored}
        assert {adapter["cid"] for adapter in result["adapters"]} <= cids
        for embedded in ("loraledger.db", "broker", "ipfs"):
            assert not (home / embedded).exists(), f"{embedded} is used next to the service"
