"""JSON documents with a long list in them: one line for each item, made one by one, so that a fleet's fit in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def document(head: dict[str, Any], name: str, items: Iterable[dict[str, Any]]) -> bytes:
    """Write an object that has the items of ``head``, which is not empty, and then a list of a name."""
    begin = json.dumps(head, ensure_ascii=False).removesuffix("}")
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in items)
    return f"{begin},\n{json.dumps(name)}: [\n{lines}\n]}}\n".encode()
