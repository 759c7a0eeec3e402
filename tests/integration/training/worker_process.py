"""One worker with its relay, as `loraledger worker` and `loraledger relay` run them, over rows from a file.

`python worker_process.py FOLDER`: everything lies in the folder, and `setup.json` says the rest.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from backend.db.unit_of_work import Database
from backend.domain.ids import Hash32
from backend.services.contribute.transfers import Transfers
from backend.services.market.adapter_folders import AdapterFolders
from backend.services.market.screening import Screening
from backend.services.train.leases import Leases
from backend.services.train.publication import Publication
from backend.storage.embedded import EmbeddedStore
from tests.unit.workers.support import BASE, PAID, InMemoryRows, letter_rows
from workers.app import create_app, work
from workers.inspection import InspectionProcess
from workers.relay import Relay
from workers.screening import JobScreening
from workers.steps import Steps, TrainerOptions

if TYPE_CHECKING:
    from collections.abc import Mapping


def main(home: Path) -> None:
    logging.basicConfig(level=logging.INFO)
    setup = json.loads((home / "setup.json").read_text())
    database = Database.open(setup["database_url"])
    leases = Leases(database, PAID, seconds=setup["lease_seconds"])
    store, screening = EmbeddedStore(home / "ipfs"), Screening(database)
    publication = Publication(database, store, None, screening)  # type: ignore[arg-type]
    # A job names the base of the test's prices, and then the one that its result is of.
    digests = BASE.digest, Hash32(setup["base_digest"])
    inspect = dict.fromkeys(digests, InspectionProcess(Path(setup["base_folder"])))
    job_screening = JobScreening(screening, AdapterFolders(store, home / "adapters"), inspect)
    transfers = Transfers(home / "transfers", 1 << 30)
    base_folders = dict.fromkeys(digests, setup["base_folder"])
    options = TrainerOptions(home / "training", home / "cache", 1, base_folders, transfers=transfers)
    app = create_app(home, setup["broker_url"])

    def send(task: str, payload: Mapping[str, Any]) -> None:
        app.send_task(task, kwargs=dict(payload))

    relay = Relay(database, send, (leases.requeue_expired,))
    threading.Thread(target=relay.run, args=(threading.Event(),), daemon=True).start()
    work(app, Steps(leases, InMemoryRows(letter_rows()), job_screening, publication, options))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
