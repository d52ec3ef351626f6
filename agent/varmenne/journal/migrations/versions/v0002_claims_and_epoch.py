"""Count claims, let raw answers be pruned, and know the journal's epoch and how many requests were begun."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what 0001 lacks, and count the requests that its history tells of."""
    op.add_column(
        "enrollment",
        sa.Column(
            "claims", sa.Integer, nullable=False, server_default=sa.text("0"), comment="since the last sign of progress"
        ),
    )
    with op.batch_alter_table("answer") as answer:
        answer.alter_column(
            "body",
            existing_type=sa.LargeBinary(),
            nullable=True,
            comment="zlib-compressed; NULL when it was pruned",
            existing_comment="zlib-compressed",
        )
    with op.batch_alter_table("meta") as meta:
        meta.alter_column(
            "name", existing_type=sa.Text(), comment="epoch; sent: how many one-shot requests; pruned: when"
        )
    op.execute("DELETE FROM meta WHERE name = 'schema'")
    op.execute(
        "INSERT INTO meta (name, value) SELECT 'sent', CAST(count(*) AS TEXT) FROM event WHERE target = 'submitting'"
    )
    meta_table = sa.table("meta", sa.column("name", sa.Text), sa.column("value", sa.Text))
    op.bulk_insert(meta_table, [{"name": "epoch", "value": secrets.token_hex(8)}])
