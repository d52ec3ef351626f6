"""Have a log of every act on a key, and checkpoints of it. It begins with the enrollments as they stand."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the tables, which are filled by whoever migrates, and indexes that large fleets miss."""
    op.create_index("ix_enrollment_replaces", "enrollment", ["replaces"])
    op.drop_index("ix_enrollment_token", "enrollment")
    op.create_index("ix_enrollment_token", "enrollment", ["token", "created_at"])
    op.drop_table("probe")  # The log has them from now on; a token is probed anew.
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "log",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("enrollment_id", sa.Text, index=True, comment="for looking up; the record says it too"),
        sa.Column("body", sa.LargeBinary, nullable=False, comment="the record's exact bytes"),
    )
    op.create_table(
        "node",
        sa.Column(
            "level", sa.SmallInteger, primary_key=True, autoincrement=False, comment="1 for two records, 2 for four"
        ),
        sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
    )
    op.create_table(
        "head",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False, comment="1: there is one row"),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column(
            "frontier", sa.LargeBinary, nullable=False, comment="32 bytes for each complete subtree, largest first"
        ),
    )
    op.create_table(
        "checkpoint",
        sa.Column("origin", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("root", sa.LargeBinary(32), nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("anchored_at", moment),
    )
