"""The first tables. Journals from before Alembic have them already, and are only marked as being here."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)
NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "meta",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )
    _enrollment()
    for table in ("event", "answer"):
        op.create_table(
            table,
            sa.Column("id", NUMBER, autoincrement=True, nullable=False),
            sa.Column("enrollment_id", sa.Text, nullable=False),
            *(_event_columns() if table == "event" else _answer_columns()),
            sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
            sa.ForeignKeyConstraint(["enrollment_id"], ["enrollment.id"], name=f"fk_{table}_enrollment_id"),
        )
        op.create_index(f"ix_{table}_enrollment_id", table, ["enrollment_id"])
    op.create_table(
        "probe",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("token", sa.Text, nullable=False, comment="hash of the token's identity"),
        sa.Column("at", TIME, nullable=False),
        sa.Column("fit", sa.Boolean, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_probe"),
    )
    op.create_index("ix_probe_token", "probe", ["token"])


def _enrollment() -> None:
    """Make the table of enrollments with its indexes."""
    op.create_table(
        "enrollment",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("customer_name", sa.Text),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("due_at", TIME),
        sa.Column("owner", sa.Text),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("replaces", sa.Text),
        sa.Column("transfer_hash", sa.Text),
        sa.Column("valid_until", TIME),
        sa.Column("key_id", sa.LargeBinary(16), nullable=False),
        sa.Column("key_label", sa.Text, nullable=False),
        sa.Column("token", sa.Text, comment="hash of the identity of the token that holds the key"),
        sa.Column("public_key", sa.LargeBinary),
        sa.Column("custody", sa.JSON),
        sa.Column("csr", sa.Text),
        sa.Column("sent_at", TIME),
        sa.Column("retrieval_id", sa.Text),
        sa.Column("certificate", sa.Text),
        sa.Column("chain", sa.Text),
        sa.Column("serial_number", sa.Text),
        sa.Column("not_before", TIME),
        sa.Column("not_after", TIME),
        sa.Column("vault_path", sa.Text),
        sa.Column("vault_version", sa.Integer),
        sa.Column("problem", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_enrollment"),
        sa.UniqueConstraint("environment", "transfer_hash", name="uq_enrollment_transfer"),
        sa.UniqueConstraint("key_id", name="uq_enrollment_key_id"),
    )
    op.create_index("ix_enrollment_state", "enrollment", ["state", "id"])
    op.create_index("ix_enrollment_customer", "enrollment", ["environment", "customer_id", "channel"])
    op.create_index("ix_enrollment_token", "enrollment", ["token"])
    is_due = sa.text("due_at IS NOT NULL")
    op.create_index("ix_enrollment_due", "enrollment", ["due_at"], sqlite_where=is_due, postgresql_where=is_due)


def _event_columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
    )


def _answer_columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("http_status", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False, comment="zlib-compressed"),
        sa.Column("verdict", sa.Text),
    )
