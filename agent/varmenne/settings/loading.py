"""Finds, reads and checks the settings file. Unknown keys are refused by name; paths are relative to its folder."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from varmenne.errors import ConfigError
from varmenne.settings.kinds import ADDRESS_PATTERN, FINGERPRINT_PATTERN, SOURCE_PATTERN
from varmenne.settings.tables import PATHS, SECRET_SOURCES, Settings

CONFIG_NAME = "varmenne.toml"


def find_config(explicit: str | None) -> Path:
    """Return the settings file: the explicit one, ``./varmenne.toml``, the user's, or ``/etc/varmenne/varmenne.toml``.

    Raises:
        ConfigError: the file does not exist or cannot be reached, or none was found.
    """
    if explicit:
        path = Path(explicit)
        _refuse_no_file(path)
        return path
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    candidates = [Path(CONFIG_NAME), home / "varmenne" / CONFIG_NAME, Path("/etc/varmenne") / CONFIG_NAME]
    looked_for = []
    for path in candidates:
        try:
            if path.is_file():
                return path
            looked_for.append(str(path))
        except OSError as exc:
            looked_for.append(f"{path} (cannot be read: {exc.strerror})")
    raise ConfigError(
        "No settings file was found",
        why="looked for " + ", ".join(looked_for),
        next_step="`varmenne init` writes one; `--config FILE` or VARMENNE_CONFIG names another. "
        "`varmenne demo` needs none",
    )


def _refuse_no_file(path: Path) -> None:
    """Refuse a name that is not a settings file's.

    Raises:
        ConfigError: nothing is there, it is a folder, or a folder on the way may not be entered.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"There is no settings file {path}", next_step="`varmenne init` writes one") from None
    except OSError as exc:
        raise ConfigError(f"The settings file {path} cannot be read", why=exc.strerror or str(exc)) from exc
    if stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is a folder", next_step=f"Name the file, such as {path / CONFIG_NAME}")


def load_settings(path: Path) -> Settings:
    """Read and check a settings file.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key (the nearest right one is named), a missing or wrong value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"The settings file {path} cannot be read", why=exc.strerror or str(exc)) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"The settings file {path} is not valid TOML", why=str(exc)) from exc
    return parse_settings(text, path)


def parse_settings(text: str, path: Path) -> Settings:
    """Check a settings file's text, which need not be in the file yet.

    Raises:
        ConfigError: not TOML, an unknown key (the nearest right one is named), a missing or wrong value.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"The settings file {path} is not valid TOML", why=str(exc)) from exc
    _refuse_unknown(document, Settings, (), path)
    _resolve(document, path.resolve().parent)
    try:
        return msgspec.convert(document, Settings)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"The settings file {path} has a wrong value", why=_in_toml_words(str(exc))) from exc


def why_wrong(keys: tuple[str, ...], value: object) -> str:
    """Say why one setting cannot have a value; nothing if it can."""
    kind: Any = Settings
    for key in keys:
        kind = next(field.type for field in msgspec.structs.fields(kind) if field.name == key)
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        return _in_toml_words(str(exc))
    return ""


def _refuse_unknown(table: dict[str, Any], struct: type[msgspec.Struct], where: tuple[str, ...], path: Path) -> None:
    """Refuse the first key that the struct does not know, and suggest the nearest one that it does."""
    fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise ConfigError(
                f"Unknown setting {'.'.join((*where, key))!r} in {path}",
                next_step=f"Did you mean {'.'.join((*where, near[0]))!r}?"
                if near
                else f"Known here: {', '.join(fields)}",
            )
        kind = fields[key]
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            _refuse_unknown(value, kind, (*where, key), path)


def _resolve(document: dict[str, Any], base: Path) -> None:
    """Make the file's relative paths absolute, so that they mean the same from every working directory."""
    for keys, prefix in [(keys, "") for keys in PATHS] + [(keys, "file:") for keys in SECRET_SOURCES]:
        table: Any = document
        for key in keys[:-1]:
            table = table.get(key) if isinstance(table, dict) else None
        value = table.get(keys[-1]) if isinstance(table, dict) else None
        if isinstance(value, str) and value.startswith(prefix) and value != prefix:
            table[keys[-1]] = prefix + str(base / Path(value.removeprefix(prefix)).expanduser())


def _in_toml_words(message: str) -> str:
    """Turn msgspec's JSON path (``$.token.pin``) into the words of the file, and its types into TOML's."""
    message = message.replace(
        f"Expected `str` matching regex {SOURCE_PATTERN!r}",
        "the source of a secret is prompt, file:PATH, fd:NUMBER, credential:NAME or env:NAME, never the secret itself",
    )
    message = message.replace(
        f"Expected `str` matching regex {ADDRESS_PATTERN!r}", "an address begins with https:// or http://"
    )
    message = message.replace(
        f"Expected `str` matching regex {FINGERPRINT_PATTERN!r}", "it has 64 small hexadecimal digits"
    )
    message = re.sub(
        r"Expected `str` matching regex '\^\(([a-z|-]+)\)\$'", lambda m: f"it is {m[1].replace('|', ' or ')}", message
    )
    message = message.replace("Expected `str` of length >= 1", "it may not be empty")
    message = re.sub(r" - at `\$\.?([^`]*)`", lambda m: f" (at {m[1]})" if m[1] else "", message)
    return message.replace("Object missing required field", "missing setting").replace("`", "'")
