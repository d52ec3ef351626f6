"""Kinds of values that several tables of settings share, with the patterns that they have to match."""

from __future__ import annotations

from typing import Annotated

import msgspec

Text = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
SOURCE_PATTERN = r"^(prompt|file:.+|fd:[0-9]+|credential:[A-Za-z0-9_.-]+|env:[A-Za-z_][A-Za-z0-9_]*)$"
SecretSource = Annotated[str, msgspec.Meta(pattern=SOURCE_PATTERN)]
FINGERPRINT_PATTERN = r"^[0-9a-f]{64}$"
Fingerprint = Annotated[str, msgspec.Meta(pattern=FINGERPRINT_PATTERN)]
ADDRESS_PATTERN = r"^https?://"
