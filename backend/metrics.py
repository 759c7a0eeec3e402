"""What the processes of an installation count. No label names an adapter, a payer or anything else of which
there can be any number.

State, such as money on its way or a backlog, is not counted: it is read from the database when somebody asks,
see `backend.installation.metrics`. The engine counts for itself, see `inference.meter`.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# API
REQUESTS = Counter(
    "loraledger_http_requests",
    "Requests that were answered, by route as the API's document names it.",
    ["method", "route", "status"],
)
RESPONSE_START = Histogram(
    "loraledger_http_response_start_seconds",
    "From a request's arrival to the first byte of its answer: of streams, to their first token.",
    ["method", "route"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
)
ERRORS = Counter("loraledger_errors", "Errors that were answered, by code.", ["code"])
ANSWERS = Counter("loraledger_answers", "Answers that ended with a receipt.")
CHARGED_UNITS = Counter("loraledger_charged_units", "Micro-units of the payment token that receipts charge.")
CHARGED_TOKENS = Counter("loraledger_charged_tokens", "Tokens that receipts charge.", ["kind"])

# Chain
HEAD_BLOCK = Gauge(
    "loraledger_chain_head_block",
    "The node's newest block when the indexer last asked.",
    multiprocess_mode="mostrecent",
)
INDEXED_EVENTS = Counter("loraledger_indexed_events", "Events of the chain that were taken in.")
REORGS = Counter("loraledger_reorgs", "Times that indexed blocks fell out of the chain.")
REORGED_EVENTS = Counter("loraledger_reorged_events", "Indexed events that fell out with them.")
RPC_REQUESTS = Counter(
    "loraledger_rpc_requests",
    "Questions to the chain's node; refused: it answered with an error; unreachable: with nothing of use.",
    ["method", "outcome"],
)
OPERATOR_WEI = Gauge(
    "loraledger_operator_wei",
    "What the operator's account has for gas, when the sender last asked.",
    multiprocess_mode="mostrecent",
)
GAS_PRICE_WEI = Gauge(
    "loraledger_gas_price_wei",
    "What a transaction of ours offers at most for a unit of gas, at that time.",
    multiprocess_mode="mostrecent",
)
TRANSACTIONS = Counter(
    "loraledger_transactions",
    "Steps of our transactions: sent, replaced with higher fees, requeued as their nonce was used elsewhere, "
    "confirmed, failed on the chain, refused before they were sent.",
    ["function", "step"],
)

# Workers
TASKS = Histogram(
    "loraledger_task_seconds",
    "Steps of training jobs that a worker ran.",
    ["step", "outcome"],
    buckets=(0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0),
)
DELIVERIES = Counter("loraledger_outbox_deliveries", "Messages to workers.", ["topic", "outcome"])
