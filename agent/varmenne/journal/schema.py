"""The journal's tables (SQLAlchemy Core), the same on every database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

REVISIONS = ("0001", "0002", "0003", "0004")
"""The migrations in ``migrations/versions``, in their order; the tables below are as the last one leaves them."""


OPEN_STATES = ("prepared", "keyed", "submitting", "accepted", "issued", "stored")
"""States of a renewal that is under way: of each certificate there is at most one that was never published."""


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A moment in UTC. Naive times are refused: SQLite would drop an offset without converting."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Convert to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without time zone cannot be stored")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Say that it is UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

revision = sa.Table(
    "alembic_version",
    # Alembic's own table: it makes and reads it, and we only look which revision it names.
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True, comment="epoch; sent: how many one-shot requests; pruned: when"),
    sa.Column("value", sa.Text, nullable=False),
)

enrollment = sa.Table(
    "enrollment",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("environment", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text, nullable=False),
    sa.Column("customer_name", sa.Text),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("due_at", UtcTime),
    sa.Column("owner", sa.Text),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column(
        "claims", sa.Integer, nullable=False, server_default=sa.text("0"), comment="since the last sign of progress"
    ),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("replaces", sa.Text, index=True),
    sa.Column("transfer_hash", sa.Text),
    sa.Column("valid_until", UtcTime),
    sa.Column("key_id", sa.LargeBinary(16), nullable=False, unique=True),
    sa.Column("key_label", sa.Text, nullable=False),
    sa.Column("token", sa.Text, comment="hash of the identity of the token that holds the key"),
    sa.Column("public_key", sa.LargeBinary),
    sa.Column("custody", sa.JSON(none_as_null=True)),
    sa.Column("csr", sa.Text),
    sa.Column("sent_at", UtcTime),
    sa.Column("retrieval_id", sa.Text),
    sa.Column("certificate", sa.Text),
    sa.Column("chain", sa.Text),
    sa.Column("serial_number", sa.Text),
    sa.Column("not_before", UtcTime),
    sa.Column("not_after", UtcTime),
    sa.Column("vault_path", sa.Text),
    sa.Column("vault_version", sa.Integer),
    sa.Column("usable_from", UtcTime),
    sa.Column("sftp_user", sa.Text),
    sa.Column("contact", sa.Text),
    sa.Column("rehearsal", sa.JSON(none_as_null=True)),
    sa.Column("problem", sa.JSON(none_as_null=True)),
    sa.UniqueConstraint("environment", "transfer_hash", name="uq_enrollment_transfer"),
    sa.Index("ix_enrollment_customer", "environment", "customer_id", "channel"),
    sa.Index("ix_enrollment_state", "state", "id"),
    sa.Index("ix_enrollment_token", "token", "created_at"),
)
sa.Index(
    "ix_enrollment_due",
    enrollment.c.due_at,
    sqlite_where=enrollment.c.due_at.is_not(None),
    postgresql_where=enrollment.c.due_at.is_not(None),
)

_OPEN_RENEWAL = sa.and_(
    enrollment.c.method == "renewal", enrollment.c.state.in_(OPEN_STATES), enrollment.c.vault_version.is_(None)
)
sa.Index(
    "uq_enrollment_renewal",
    enrollment.c.replaces,
    unique=True,
    sqlite_where=_OPEN_RENEWAL,
    postgresql_where=_OPEN_RENEWAL,
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("enrollment_id", sa.Text, sa.ForeignKey("enrollment.id"), nullable=False, index=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("source", sa.Text),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
)

answer = sa.Table(
    "answer",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("enrollment_id", sa.Text, sa.ForeignKey("enrollment.id"), nullable=False, index=True),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("http_status", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, comment="zlib-compressed; NULL when it was pruned"),
    sa.Column("verdict", sa.Text),
)

log = sa.Table(
    "log",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("enrollment_id", sa.Text, index=True, comment="for looking up; the record says it too"),
    sa.Column("body", sa.LargeBinary, nullable=False, comment="the record's exact bytes"),
)

node = sa.Table(
    "node",
    metadata,
    sa.Column("level", sa.SmallInteger, primary_key=True, autoincrement=False, comment="1 for two records, 2 for four"),
    sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False),
)

head = sa.Table(
    "head",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False, comment="1: there is one row"),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("frontier", sa.LargeBinary, nullable=False, comment="32 bytes for each complete subtree, largest first"),
)

checkpoint = sa.Table(
    "checkpoint",
    metadata,
    sa.Column("origin", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("root", sa.LargeBinary(32), nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("anchored_at", UtcTime),
)

hook = sa.Table(
    "hook",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("enrollment_id", sa.Text, sa.ForeignKey("enrollment.id"), nullable=False, index=True),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False, comment="of the executable in the folder of the event"),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("outcome", sa.Text, comment="NULL: to be run (again)"),
    sa.Column("detail", sa.Text),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due_at", UtcTime, index=True),
)
