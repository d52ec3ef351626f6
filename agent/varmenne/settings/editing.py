"""Writing the settings file: comments and order are kept, and a value is changed only where that is asked."""

from __future__ import annotations

import os
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Table

from varmenne.errors import ConfigError
from varmenne.settings.loading import parse_settings
from varmenne.settings.reference import tables
from varmenne.settings.tables import Settings

Keys = tuple[str, ...]
"""The tables that lead to a setting, and its name."""

COMMENT_COLUMNS = 100
EMPTY = '""'


def changed(path: Path, values: Mapping[Keys, Any]) -> str:
    """Return the text of the settings file with some values set; a file that is not there begins with all comments.

    Raises:
        ConfigError: the file is not TOML, or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else _template(values)
        document = tomlkit.parse(text)
    except (OSError, tomlkit.exceptions.ParseError) as exc:
        raise ConfigError(f"The settings file {path} cannot be read", why=str(exc)) from exc
    for keys, value in values.items():
        table: Any = document
        for key in keys[:-1]:
            table = table.setdefault(key, tomlkit.table())
        table[keys[-1]] = value
    return tomlkit.dumps(document)


def write_checked(path: Path, text: str) -> Settings:
    """Check the text as the program will read it, then put it in the file's place at once.

    Raises:
        ConfigError: a value is wrong, or the file cannot be written; then the old file stays as it is.
    """
    settings = parse_settings(text, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new = Path(file.name)
    except OSError as exc:
        raise ConfigError(f"The settings file {path} cannot be written", why=exc.strerror or str(exc)) from exc
    try:
        new.chmod(0o644)  # It names the sources of secrets and holds none.
        new.replace(path)
    except OSError as exc:
        new.unlink(missing_ok=True)
        raise ConfigError(f"The settings file {path} cannot be written", why=exc.strerror or str(exc)) from exc
    return settings


def _template(values: Mapping[Keys, Any]) -> str:
    """Return a new file in which every setting is described; those without a given value stand as comments."""
    document = tomlkit.document()
    document.add(tomlkit.comment("Settings of varmenne. Secrets are not kept here, only where they come from."))
    for described in tables():
        target: Any = document
        for key in described.path:
            if key not in target:
                target.add(key, tomlkit.table())
            target = target[key]
        if isinstance(target, Table):
            target.comment(described.description)
        for setting in described.settings:
            target.add(tomlkit.nl())
            for line in textwrap.wrap(setting.description, COMMENT_COLUMNS):
                target.add(tomlkit.comment(line))
            if setting.path in values:
                target.add(setting.path[-1], values[setting.path])
            else:
                target.add(tomlkit.comment(f"{setting.path[-1]} = {setting.default or EMPTY}"))
    return tomlkit.dumps(document)
