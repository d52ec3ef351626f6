"""Changes what SoftHSM keeps of a private RSA key, in its files, as somebody with access to them could."""

from __future__ import annotations

from pathlib import Path

CLASS, KEY_TYPE = 0x000, 0x100
DECRYPT, EXTRACTABLE, NEVER_EXTRACTABLE = 0x105, 0x162, 0x164
_NUMBER, _FLAG = 2, 1
_PRIVATE_KEY, _RSA = 3, 0


def set_flag(path: Path, attribute: int, *, value: bool) -> None:
    """Set a flag of a private key, given its file: SoftHSM keeps flags in clear, and does not sign them.

    A folder stands for the only private RSA key of the token in it.
    """
    if path.is_dir():
        (path,) = private_rsa_keys(path)
    data = bytearray(path.read_bytes())
    place = data.index(_header(attribute, _FLAG)) + 16
    data[place] = 0xFF if value else 0
    _bump(data)
    path.write_bytes(data)


def private_rsa_keys(folder: Path) -> list[Path]:
    """Return the files of the private RSA keys in a token."""
    wanted = [_header(CLASS, _NUMBER) + _number(_PRIVATE_KEY), _header(KEY_TYPE, _NUMBER) + _number(_RSA)]
    files = sorted(folder.glob("tokens/*/*.object"))
    return [path for path in files if all(part in path.read_bytes() for part in wanted)]


def _bump(data: bytearray) -> None:
    """Count the file's generation up, by which SoftHSM notices that it changed; it stands at the beginning."""
    data[:8] = _number(int.from_bytes(data[:8]) + 1)


def _header(attribute: int, kind: int) -> bytes:
    """Return what stands before an attribute's value."""
    return _number(attribute) + _number(kind)


def _number(value: int) -> bytes:
    """Return a number as SoftHSM writes it."""
    return value.to_bytes(8)
