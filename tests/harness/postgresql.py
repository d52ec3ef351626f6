"""A real PostgreSQL for tests: one server per session, on a Unix socket in a folder of its own, and no port.

Import the fixtures that a room needs in its ``conftest.py``::

    from harness.postgresql import new_postgresql_url, postgresql
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

__all__ = ["PostgreSQL", "new_postgresql_url", "postgresql"]

PATIENCE_SECONDS = 60
SUPERUSER = "varmenne"


class PostgreSQL:
    """A server. It refuses to run as root, so root runs it as the user that Debian's package made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
        self._run(
            "initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", f"--username={SUPERUSER}",
            f"--pgdata={self._data}",
        )  # fmt: skip

    def start(self) -> None:
        """Start the server and wait until it answers. It writes without fsync: tests do not cut its power."""
        settings = {"listen_addresses": "", "unix_socket_directories": str(self._folder), "fsync": "off"}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary("postgres"), "-D", str(self._data), *words],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", **_as_user(),
            )  # fmt: skip
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self._folder / 'log').read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server as an administrator in a hurry does: connections are ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database, as the settings take it."""
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"journal{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement outside a transaction."""
        engine = sa.create_engine(self.url(database), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def _answers(self) -> bool:
        """Tell whether the server takes connections."""
        with contextlib.suppress(sa.exc.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def _run(self, name: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        done = subprocess.run(
            [_binary(name), *arguments], check=False, capture_output=True, text=True, cwd="/", **_as_user()
        )
        if done.returncode != 0:
            raise RuntimeError(f"{name} failed:\n{done.stdout}{done.stderr}")


def _binary(name: str) -> str:
    """Return the path of a server program; Debian keeps them apart by version, and the newest is taken."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    path = str(found[-1]) if found else shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} was not found; install Debian's package postgresql")
    return path


def _as_user() -> dict[str, Any]:
    """Return what makes a subprocess run as a user that PostgreSQL accepts."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """Run a server for the session. Its folder has a short name, since a socket's path may have 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="varmenne-pg-"))
    server = PostgreSQL(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture
def new_postgresql_url(postgresql: PostgreSQL) -> Callable[[], str]:
    """Return a maker of empty databases."""
    return postgresql.new_database
