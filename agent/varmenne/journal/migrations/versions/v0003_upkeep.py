"""Know what renewal and upkeep need: facts of the channel, the last rehearsal, hooks, one renewal at a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_OPEN = (
    "method = 'renewal' AND state IN ('prepared', 'keyed', 'submitting', 'accepted', 'issued', 'stored') "
    "AND vault_version IS NULL"
)


def upgrade() -> None:
    """Add what 0002 lacks, and have certificates looked after from now on that are in use, or were."""
    moment = sa.DateTime(timezone=True)
    for column in (
        sa.Column("usable_from", moment),
        sa.Column("sftp_user", sa.Text),
        sa.Column("contact", sa.Text),
        sa.Column("rehearsal", sa.JSON(none_as_null=True)),
    ):
        op.add_column("enrollment", column)
    op.create_index(
        "uq_enrollment_renewal",
        "enrollment",
        ["replaces"],
        unique=True,
        sqlite_where=sa.text(_OPEN),
        postgresql_where=sa.text(_OPEN),
    )
    op.create_table(
        "hook",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("enrollment_id", sa.Text, sa.ForeignKey("enrollment.id"), nullable=False, index=True),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False, comment="of the executable in the folder of the event"),
        sa.Column("at", moment, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("outcome", sa.Text, comment="NULL: to be run (again)"),
        sa.Column("detail", sa.Text),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("due_at", moment, index=True),
    )
    op.execute("UPDATE enrollment SET due_at = updated_at WHERE state IN ('active', 'superseded') AND owner IS NULL")
