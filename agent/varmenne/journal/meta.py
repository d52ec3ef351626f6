"""Values that the journal keeps about itself, by name."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from varmenne.journal import schema


def get(connection: sa.Connection, name: str) -> str | None:
    """Return a value, or ``None`` if there is none of this name."""
    return connection.execute(sa.select(schema.meta.c.value).where(schema.meta.c.name == name)).scalar()


def keep(connection: sa.Connection, name: str, value: str) -> str:
    """Set a value unless there is one, and return the one that is there then."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    new = insert(schema.meta).values(name=name, value=value)
    connection.execute(new.on_conflict_do_nothing(index_elements=["name"]))
    return get(connection, name) or value


def put(connection: sa.Connection, name: str, value: str) -> bool:
    """Set a value, and tell whether it was another one before; of several that set the same, one is told so."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    new = insert(schema.meta).values(name=name, value=value)
    statement = new.on_conflict_do_update(
        index_elements=["name"], set_={"value": value}, where=schema.meta.c.value != value
    )
    return connection.execute(statement.returning(schema.meta.c.name)).first() is not None
