"""Prometheus metrics of the processes of an installation. Labels never have unbounded values, such as payers.

State, such as pending amounts or backlogs, is read from the database at each scrape, see
`backend.installation.metrics`. The engine has metrics of its own, see `inference.server.metrics`.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# API
REQUESTS = Counter(
    "loraledger_http_requests",
    "Answered requests, by route as in the OpenAPI document.",
    ["method", "route", "status"],
)
RESPONSE_START = Histogram(
    "loraledger_http_response_start_seconds",
    "Time from a request's arrival to the first byte of its response; for streams, to the first token.",
    ["method", "route"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
)
ERRORS = Counter("loraledger_errors", "Error responses, by code.", ["code"])
ANSWERS = Counter("loraledger_answers", "Answers that ended with a receipt.")
CHARGED_UNITS = Counter("loraledger_charged_units", "Micro-units of the payment token charged by receipts.")
CHARGED_TOKENS = Counter("loraledger_charged_tokens", "Tokens charged by receipts.", ["kind"])

# Chain
HEAD_BLOCK = Gauge(
    "loraledger_chain_head_block",
    "The node's newest block at the indexer's last poll.",
    multiprocess_mode="mostrecent",
)
INDEXED_EVENTS = Counter("loraledger_indexed_events", "Indexed chain events.")
REORGS = Counter("loraledger_reorgs", "Chain reorganisations that removed indexed blocks.")
REORGED_EVENTS = Counter("loraledger_reorged_events", "Indexed events removed by reorganisations.")
RPC_REQUESTS = Counter(
    "loraledger_rpc_requests",
    "JSON-RPC requests to the node; refused: answered with an error; unreachable: no usable response.",
    ["method", "outcome"],
)
ACCOUNT_WEI = Gauge(
    "loraledger_account_wei",
    "Balance for gas of an account that sends transactions: the operator's or the watcher's.",
    ["sender"],
    multiprocess_mode="mostrecent",
)
GAS_PRICE_WEI = Gauge(
    "loraledger_gas_price_wei",
    "Highest fee per unit of gas that their transactions offer now.",
    multiprocess_mode="mostrecent",
)
UNCOVERED_UNITS = Gauge(
    "loraledger_uncovered_units",
    "Charges that were due when the settler last selected receipts, and that the stake does not cover, in "
    "micro-units.",
    multiprocess_mode="mostrecent",
)
TRANSACTIONS = Counter(
    "loraledger_transactions",
    "Steps of the transactions of operator and watcher: sent, replaced with other fees, requeued as another "
    "one used the nonce, confirmed, failed on the chain, refused before sending.",
    ["function", "step"],
)

# Workers
TASKS = Histogram(
    "loraledger_task_seconds",
    "Duration of training job steps run by workers.",
    ["step", "outcome"],
    buckets=(0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0),
)
DELIVERIES = Counter("loraledger_outbox_deliveries", "Outbox messages to workers.", ["topic", "outcome"])
WEBHOOKS = Counter(
    "loraledger_webhook_attempts",
    "Attempts at delivering webhooks: delivered, to be retried, given up.",
    ["outcome"],
)
