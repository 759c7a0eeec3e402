"""create the first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("secret_hash", sa.String(length=66), nullable=False),
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("hint", sa.String(length=16), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("spend_cap", backend.db.base.Amount(length=39), nullable=True),
        sa.Column("spent", backend.db.base.Amount(length=39), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_api_keys_secret_hash")),
    )
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_api_keys_account"), ["account"], unique=False)

    op.create_table(
        "chain_answers",
        sa.Column("demand_id", sa.String(length=66), nullable=False),
        sa.Column("key_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("answerer", sa.String(length=42), nullable=False),
        sa.Column("block_hash", sa.String(length=66), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("demand_id", "key_index", name=op.f("pk_chain_answers")),
    )
    op.create_table(
        "chain_batches",
        sa.Column("hash", sa.String(length=66), nullable=False),
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("header", sa.JSON(), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.Column("is_refunded", sa.Boolean(), nullable=False),
        sa.Column("verb", sa.String(length=10), nullable=True),
        sa.Column("challenger", sa.String(length=42), nullable=True),
        sa.Column("fault", sa.Integer(), nullable=True),
        sa.Column("faulty_receipt", sa.BigInteger(), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_chain_batches")),
    )
    with op.batch_alter_table("chain_batches", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_chain_batches_operator"), ["operator"], unique=False)

    op.create_table(
        "chain_channels",
        sa.Column("id", sa.String(length=66), nullable=False),
        sa.Column("payer", sa.String(length=42), nullable=False),
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("collector", sa.String(length=42), nullable=False),
        sa.Column("balance", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("collected", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("reached", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("thawing", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("thawed_at", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_channels")),
    )
    with op.batch_alter_table("chain_channels", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_chain_channels_operator"), ["operator"], unique=False)
        batch_op.create_index(batch_op.f("ix_chain_channels_payer"), ["payer"], unique=False)

    op.create_table(
        "chain_checkpoints",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.String(length=66), nullable=False),
        sa.Column("parent_hash", sa.String(length=66), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_chain_checkpoints")),
    )
    op.create_table(
        "chain_claims",
        sa.Column("block_hash", sa.String(length=66), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("wallet", sa.String(length=42), nullable=False),
        sa.Column("amount", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("cumulative", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("block_hash", "log_index", name=op.f("pk_chain_claims")),
    )
    with op.batch_alter_table("chain_claims", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_chain_claims_account"), ["account"], unique=False)

    op.create_table(
        "chain_contributions",
        sa.Column("datanet", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("contributor", sa.String(length=42), nullable=False),
        sa.Column("content_hash", sa.String(length=66), nullable=False),
        sa.Column("cid_digest", sa.String(length=66), nullable=False),
        sa.Column("licence", sa.String(length=66), nullable=False),
        sa.Column("num_rows", sa.BigInteger(), nullable=False),
        sa.Column("is_accepted", sa.Boolean(), nullable=True),
        sa.Column("reason", sa.Integer(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("datanet", "index", name=op.f("pk_chain_contributions")),
    )
    with op.batch_alter_table("chain_contributions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_chain_contributions_contributor"), ["contributor"], unique=False)

    op.create_table(
        "chain_datanets",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("creator", sa.String(length=42), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("cid_digest", sa.String(length=66), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_datanets")),
    )
    op.create_table(
        "chain_demands",
        sa.Column("id", sa.String(length=66), nullable=False),
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("batch_hash", sa.String(length=66), nullable=False),
        sa.Column("tree", sa.Integer(), nullable=False),
        sa.Column("keys", sa.JSON(), nullable=False),
        sa.Column("challenger", sa.String(length=42), nullable=False),
        sa.Column("deadline", sa.BigInteger(), nullable=False),
        sa.Column("bond_units", sa.String(length=78), nullable=False),
        sa.Column("returned_units", sa.String(length=78), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_demands")),
    )
    with op.batch_alter_table("chain_demands", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_chain_demands_batch_hash"), ["batch_hash"], unique=False)

    op.create_table(
        "chain_events",
        sa.Column("block_hash", sa.String(length=66), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("contract", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("entity", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("block_hash", "log_index", name=op.f("pk_chain_events")),
    )
    with op.batch_alter_table("chain_events", schema=None) as batch_op:
        batch_op.create_index("ix_chain_events_entity", ["entity"], unique=False)
        batch_op.create_index("ix_chain_events_order", ["block_number", "log_index"], unique=False)

    op.create_table(
        "chain_finality",
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("operator", name=op.f("pk_chain_finality")),
    )
    op.create_table(
        "chain_grants",
        sa.Column("channel_id", sa.String(length=66), nullable=False),
        sa.Column("key", sa.String(length=42), nullable=False),
        sa.Column("cap", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("expiry", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("channel_id", "key", name=op.f("pk_chain_grants")),
    )
    op.create_table(
        "chain_operators",
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("keys", sa.JSON(), nullable=False),
        sa.Column("stake", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_chain_operators")),
    )
    op.create_table(
        "chain_parameter_sets",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_parameter_sets")),
    )
    op.create_table(
        "chain_proposals",
        sa.Column("id", sa.String(length=78), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("vote_ends_at", sa.BigInteger(), nullable=False),
        sa.Column("votes", sa.JSON(), nullable=False),
        sa.Column("executable_at", sa.BigInteger(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_proposals")),
    )
    op.create_table(
        "chain_snapshots",
        sa.Column("id", sa.String(length=66), nullable=False),
        sa.Column("datanet", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("accepted_hash", sa.String(length=66), nullable=False),
        sa.Column("accepted", sa.Text(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_snapshots")),
    )
    op.create_table(
        "chain_versions",
        sa.Column("id", sa.String(length=66), nullable=False),
        sa.Column("creator", sa.String(length=42), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.Column("is_deprecated", sa.Boolean(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_versions")),
    )
    with op.batch_alter_table("chain_versions", schema=None) as batch_op:
        batch_op.create_index("ix_chain_versions_creator_name", ["creator", "name"], unique=False)

    op.create_table(
        "chain_voids",
        sa.Column("block_hash", sa.String(length=66), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("batch_hash", sa.String(length=66), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("block_hash", "log_index", name=op.f("pk_chain_voids")),
    )
    with op.batch_alter_table("chain_voids", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_chain_voids_operator"), ["operator"], unique=False)

    op.create_table(
        "channel_lines",
        sa.Column("channel_id", sa.String(length=66), nullable=False),
        sa.Column("charged", backend.db.base.Amount(length=39), nullable=False),
        sa.PrimaryKeyConstraint("channel_id", name=op.f("pk_channel_lines")),
    )
    op.create_table(
        "held_session_keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=42), nullable=False),
        sa.Column("channel_id", sa.String(length=66), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_held_session_keys")),
        sa.UniqueConstraint("key", name=op.f("uq_held_session_keys_key")),
    )
    with op.batch_alter_table("held_session_keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_held_session_keys_channel_id"), ["channel_id"], unique=False)

    op.create_table(
        "ledgers",
        sa.Column("batch_hash", sa.String(length=66), nullable=False),
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("final_at", sa.BigInteger(), nullable=False),
        sa.Column("cumulative_total", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("balances", sa.JSON(), nullable=False),
        sa.Column("collected", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("batch_hash", name=op.f("pk_ledgers")),
    )
    with op.batch_alter_table("ledgers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_ledgers_operator_number"), ["operator", "number"], unique=False)

    op.create_table(
        "nonce_lanes",
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("next_nonce", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_nonce_lanes")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("topic", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("due_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("num_attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("topic", "key", name=op.f("uq_outbox_topic_key")),
    )
    with op.batch_alter_table("outbox", schema=None) as batch_op:
        batch_op.create_index("ix_outbox_due", ["delivered_at", "due_at"], unique=False)

    op.create_table(
        "own_batches",
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("data_digest", sa.String(length=66), nullable=False),
        sa.Column("commit_tx", sa.BigInteger(), nullable=True),
        sa.Column("is_released", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("operator", "number", name=op.f("pk_own_batches")),
    )
    op.create_table(
        "receipts",
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=66), nullable=False),
        sa.Column("operator", sa.String(length=42), nullable=False),
        sa.Column("payer", sa.String(length=42), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=True),
        sa.Column("batch", sa.Integer(), nullable=True),
        sa.Column("salt", sa.String(length=66), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("signature", sa.String(length=132), nullable=False),
        sa.Column("channel_id", sa.String(length=66), nullable=False),
        sa.Column("cumulative", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("charge", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("request_hash", sa.String(length=66), nullable=False),
        sa.Column("response_hash", sa.String(length=66), nullable=False),
        sa.Column("slices_hash", sa.String(length=66), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("attribution_hash", sa.String(length=66), nullable=False),
        sa.Column("served_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_receipts")),
        sa.UniqueConstraint("id", name=op.f("uq_receipts_id")),
    )
    with op.batch_alter_table("receipts", schema=None) as batch_op:
        batch_op.create_index("ix_receipts_channel_id_cumulative", ["channel_id", "cumulative"], unique=False)
        batch_op.create_index("ix_receipts_operator_batch", ["operator", "batch"], unique=False)
        batch_op.create_index("ix_receipts_payer_sequence", ["payer", "sequence"], unique=False)

    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.String(length=66), nullable=False),
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("expires_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sessions")),
    )
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sessions_account"), ["account"], unique=False)
        batch_op.create_index(batch_op.f("ix_sessions_expires_at"), ["expires_at"], unique=False)

    op.create_table(
        "sign_in_nonces",
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("expires_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("nonce", name=op.f("pk_sign_in_nonces")),
    )
    with op.batch_alter_table("sign_in_nonces", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sign_in_nonces_expires_at"), ["expires_at"], unique=False)

    op.create_table(
        "training_jobs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("creator", sa.String(length=42), nullable=False),
        sa.Column("snapshot_id", sa.String(length=66), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("finished_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("lease_owner", sa.String(length=36), nullable=True),
        sa.Column("lease_until", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("dataset", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("adapter_digest", sa.String(length=66), nullable=True),
        sa.Column("base_model", sa.String(length=66), nullable=True),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("cid", sa.String(length=64), nullable=True),
        sa.Column("version_id", sa.String(length=66), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_jobs")),
    )
    with op.batch_alter_table("training_jobs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_training_jobs_creator"), ["creator"], unique=False)
        batch_op.create_index("ix_training_jobs_state_lease_until", ["state", "lease_until"], unique=False)
        batch_op.create_index(batch_op.f("ix_training_jobs_version_id"), ["version_id"], unique=False)

    op.create_table(
        "transactions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("lane", sa.String(length=42), nullable=False),
        sa.Column("contract", sa.String(length=64), nullable=False),
        sa.Column("function", sa.String(length=128), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("nonce", sa.BigInteger(), nullable=True),
        sa.Column("gas", sa.BigInteger(), nullable=True),
        sa.Column("tx_hash", sa.String(length=66), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=True),
        sa.Column("block_hash", sa.String(length=66), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'sent', 'mined', 'confirmed', 'failed')", name=op.f("ck_transactions_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transactions")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_transactions_idempotency_key")),
        sa.UniqueConstraint("lane", "nonce", name=op.f("uq_transactions_lane_nonce")),
    )
    with op.batch_alter_table("transactions", schema=None) as batch_op:
        batch_op.create_index("ix_transactions_lane_state", ["lane", "state"], unique=False)

    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("datanet", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("nonce", sa.BigInteger(), nullable=True),
        sa.Column("deadline", sa.BigInteger(), nullable=True),
        sa.Column("transaction_id", sa.BigInteger(), nullable=True),
        sa.Column("index", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_uploads_account"), ["account"], unique=False)
        batch_op.create_index(batch_op.f("ix_uploads_datanet"), ["datanet"], unique=False)
        batch_op.create_index("ix_uploads_state_created_at", ["state", "created_at"], unique=False)

    op.create_table(
        "vouchers",
        sa.Column("channel_id", sa.String(length=66), nullable=False),
        sa.Column("signer", sa.String(length=42), nullable=False),
        sa.Column("waived_until", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("max_cumulative", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("signature", sa.String(length=132), nullable=False),
        sa.PrimaryKeyConstraint("channel_id", "signer", name=op.f("pk_vouchers")),
    )
    op.create_table(
        "receipt_slices",
        sa.Column("receipt_sequence", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.String(length=66), nullable=False),
        sa.Column("weight_ppm", sa.Integer(), nullable=False),
        sa.Column("shares", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["receipt_sequence"], ["receipts.sequence"], name=op.f("fk_receipt_slices_receipt_sequence")
        ),
        sa.PrimaryKeyConstraint("receipt_sequence", "number", name=op.f("pk_receipt_slices")),
    )
    with op.batch_alter_table("receipt_slices", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_receipt_slices_version_id"), ["version_id"], unique=False)

    op.create_table(
        "reservations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("channel_id", sa.String(length=66), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=True),
        sa.Column("amount", backend.db.base.Amount(length=39), nullable=False),
        sa.Column("expires_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["channel_id"], ["channel_lines.channel_id"], name=op.f("fk_reservations_channel_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    with op.batch_alter_table("reservations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_reservations_channel_id"), ["channel_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_reservations_key_id"), ["key_id"], unique=False)

    op.create_table(
        "training_events",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["training_jobs.id"], name=op.f("fk_training_events_job_id")),
        sa.PrimaryKeyConstraint("job_id", "seq", name=op.f("pk_training_events")),
    )
    op.create_table(
        "transaction_attempts",
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.Column("transaction_id", sa.Integer(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("max_fee", sa.String(length=78), nullable=False),
        sa.Column("priority_fee", sa.String(length=78), nullable=False),
        sa.Column("sent_at_block", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["transaction_id"], ["transactions.id"], name=op.f("fk_transaction_attempts_transaction_id")
        ),
        sa.PrimaryKeyConstraint("tx_hash", name=op.f("pk_transaction_attempts")),
    )
    with op.batch_alter_table("transaction_attempts", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_transaction_attempts_transaction_id"), ["transaction_id"], unique=False
        )

    op.create_table(
        "upload_rows",
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("line", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("row_hash", sa.String(length=66), nullable=False),
        sa.Column("claimed_by_datanet", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_upload_rows_upload_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("upload_id", "line", name=op.f("pk_upload_rows")),
        sa.UniqueConstraint(
            "claimed_by_datanet", "row_hash", name=op.f("uq_upload_rows_claimed_by_datanet_row_hash")
        ),
    )
    with op.batch_alter_table("upload_rows", schema=None) as batch_op:
        batch_op.create_index("ix_upload_rows_upload_id_row_hash", ["upload_id", "row_hash"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("upload_rows", schema=None) as batch_op:
        batch_op.drop_index("ix_upload_rows_upload_id_row_hash")

    op.drop_table("upload_rows")
    with op.batch_alter_table("transaction_attempts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_transaction_attempts_transaction_id"))

    op.drop_table("transaction_attempts")
    op.drop_table("training_events")
    with op.batch_alter_table("reservations", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_reservations_key_id"))
        batch_op.drop_index(batch_op.f("ix_reservations_channel_id"))

    op.drop_table("reservations")
    with op.batch_alter_table("receipt_slices", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_receipt_slices_version_id"))

    op.drop_table("receipt_slices")
    op.drop_table("vouchers")
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.drop_index("ix_uploads_state_created_at")
        batch_op.drop_index(batch_op.f("ix_uploads_datanet"))
        batch_op.drop_index(batch_op.f("ix_uploads_account"))

    op.drop_table("uploads")
    with op.batch_alter_table("transactions", schema=None) as batch_op:
        batch_op.drop_index("ix_transactions_lane_state")

    op.drop_table("transactions")
    with op.batch_alter_table("training_jobs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_training_jobs_version_id"))
        batch_op.drop_index("ix_training_jobs_state_lease_until")
        batch_op.drop_index(batch_op.f("ix_training_jobs_creator"))

    op.drop_table("training_jobs")
    with op.batch_alter_table("sign_in_nonces", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sign_in_nonces_expires_at"))

    op.drop_table("sign_in_nonces")
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sessions_expires_at"))
        batch_op.drop_index(batch_op.f("ix_sessions_account"))

    op.drop_table("sessions")
    with op.batch_alter_table("receipts", schema=None) as batch_op:
        batch_op.drop_index("ix_receipts_payer_sequence")
        batch_op.drop_index("ix_receipts_operator_batch")
        batch_op.drop_index("ix_receipts_channel_id_cumulative")

    op.drop_table("receipts")
    op.drop_table("own_batches")
    with op.batch_alter_table("outbox", schema=None) as batch_op:
        batch_op.drop_index("ix_outbox_due")

    op.drop_table("outbox")
    op.drop_table("nonce_lanes")
    with op.batch_alter_table("ledgers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_ledgers_operator_number"))

    op.drop_table("ledgers")
    with op.batch_alter_table("held_session_keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_held_session_keys_channel_id"))

    op.drop_table("held_session_keys")
    op.drop_table("channel_lines")
    with op.batch_alter_table("chain_voids", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_chain_voids_operator"))

    op.drop_table("chain_voids")
    with op.batch_alter_table("chain_versions", schema=None) as batch_op:
        batch_op.drop_index("ix_chain_versions_creator_name")

    op.drop_table("chain_versions")
    op.drop_table("chain_snapshots")
    op.drop_table("chain_proposals")
    op.drop_table("chain_parameter_sets")
    op.drop_table("chain_operators")
    op.drop_table("chain_grants")
    op.drop_table("chain_finality")
    with op.batch_alter_table("chain_events", schema=None) as batch_op:
        batch_op.drop_index("ix_chain_events_order")
        batch_op.drop_index("ix_chain_events_entity")

    op.drop_table("chain_events")
    with op.batch_alter_table("chain_demands", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_chain_demands_batch_hash"))

    op.drop_table("chain_demands")
    op.drop_table("chain_datanets")
    with op.batch_alter_table("chain_contributions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_chain_contributions_contributor"))

    op.drop_table("chain_contributions")
    with op.batch_alter_table("chain_claims", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_chain_claims_account"))

    op.drop_table("chain_claims")
    op.drop_table("chain_checkpoints")
    with op.batch_alter_table("chain_channels", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_chain_channels_payer"))
        batch_op.drop_index(batch_op.f("ix_chain_channels_operator"))

    op.drop_table("chain_channels")
    with op.batch_alter_table("chain_batches", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_chain_batches_operator"))

    op.drop_table("chain_batches")
    op.drop_table("chain_answers")
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_api_keys_account"))

    op.drop_table("api_keys")
