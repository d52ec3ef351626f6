"""The settings described by their own definitions: for the docs and for the comments that `init` writes."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from varmenne.settings.tables import Settings


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        path: the tables that lead to it, and its name.
        kind: its type in a word or two.
        description: what it is, and its unit.
        default: its default as TOML writes it, or ``None`` if it must be given.
    """

    path: tuple[str, ...]
    kind: str
    description: str
    default: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file: its path, what it is about, and its settings."""

    path: tuple[str, ...]
    description: str
    settings: tuple[Setting, ...]


KINDS: dict[object, str] = {str: "text", float: "number", int: "number", bool: "true or false", dict: "table of texts"}


def tables(struct: type[msgspec.Struct] = Settings, path: tuple[str, ...] = ()) -> Iterator[Table]:
    """Yield the tables of the settings file, the outer before the inner, in the order of their definition."""
    hints = typing.get_type_hints(struct, include_extras=True)
    settings: list[Setting] = []
    inner: list[tuple[str, type[msgspec.Struct]]] = []
    for field in msgspec.structs.fields(struct):
        plain, description = _unwrapped(hints[field.name])
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            inner.append((field.name, plain))
        else:
            settings.append(Setting((*path, field.name), _kind(plain), description, _default(field)))
    yield Table(path, (struct.__doc__ or "").strip().splitlines()[0], tuple(settings))
    for name, child in inner:
        yield from tables(child, (*path, name))


def _unwrapped(hint: Any) -> tuple[Any, str]:
    """Take the annotations off a type and return it with the description found among them."""
    description = ""
    while typing.get_origin(hint) is typing.Annotated:
        for note in hint.__metadata__:
            description = getattr(note, "description", None) or description
        hint = hint.__origin__
    return hint, description


def _kind(plain: Any) -> str:
    """Name a type for people; the words of an enumeration are listed."""
    if typing.get_origin(plain) in {typing.Union, types.UnionType}:
        plain = _unwrapped(next(kind for kind in typing.get_args(plain) if kind is not type(None)))[0]
    if isinstance(plain, type) and hasattr(plain, "__members__"):
        return " or ".join(f"`{member.value}`" for member in plain.__members__.values())
    return KINDS.get(typing.get_origin(plain) or plain, "text")


def _default(field: msgspec.structs.FieldInfo) -> str | None:
    """Return a field's default as TOML writes it; ``None`` if it has to be given."""
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return None
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return ""
    if isinstance(value, dict):
        return "{}"
    return f'"{value}"' if isinstance(value, str) else str(value)
