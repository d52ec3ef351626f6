"""The report as a page: one file that asks for nothing else, with no script, and a policy that allows none."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from varmenne.audit.inventory import Inventory
from varmenne.audit.report import views
from varmenne.audit.report.controls import Evidence
from varmenne.audit.report.language import Language, Texts, day, minute, texts
from varmenne.domain.forms import iso
from varmenne.domain.key_states import KEY_STATES, KeyState

TEMPLATES: Final = Path(__file__).with_name("templates")

SECTIONS: Final = (
    "summary",
    "exceptions",
    "inventory",
    "timelines",
    "custody",
    "dates",
    "controls",
    "verify",
    "limits",
)
"""The sections, in their order; each has a template."""


def html(inventory: Inventory, language: Language, evidence: tuple[Evidence, ...], files: Mapping[str, bytes]) -> bytes:
    """Write the page.

    Args:
        inventory: what it tells.
        language: the language that it is in.
        evidence: the table of controls, in that language.
        files: the other files of the report, whose hashes it has.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    t = texts(language)
    page = views.page(inventory)
    counts = inventory.counts()
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    environment.globals.update(
        t=t,
        day=day,
        minute=minute,
        iso=iso,
        sha256=lambda text: hashlib.sha256(text.encode()).hexdigest(),
        inventory=inventory,
        page=page,
        counts=counts,
        active=KeyState.ACTIVE,
        told_states=", ".join(f"{t(f'key_state.{state}')} {number}" for state, number in counts.items() if number),
        software={token.identity for token in inventory.tokens if token.software},
        values={group.letter: dict(group.custody.attributes) for group in page.custody},
        key_states=KEY_STATES,
        linked={key.enrollment for key in page.timelines},
        open_up_to=views.OPEN_UP_TO,
        evidence=evidence,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        asked=_asked(inventory, t),
        sections=SECTIONS,
        language=language.value,
        # Our own file, whose exact text the policy names.
        style=Markup(style),  # noqa: S704
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
    )
    return environment.get_template("report.html.j2").render().lstrip().encode()


def _asked(inventory: Inventory, t: Texts) -> str:
    """Name what was asked."""
    return ", ".join(t(f"asked.{name}") for name in ("journal", *inventory.asked))
