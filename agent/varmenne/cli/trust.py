"""``varmenne trust``: bring trust anchors in, look at them, take them out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.domain.identifiers import Environment
from varmenne.errors import ChecksFailed, InputError, ServiceUnreachable

if TYPE_CHECKING:
    from datetime import datetime

    from varmenne.service.trust_store import Authority, Entry, Ground, Stored, TrustStore

ROLES = ("services", "providers", "chain")
COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}
TYPED_DIGITS = 8
ROLE_WORDS = {
    "services": "believed when it signs the service's answers (services)",
    "providers": "believed when it issues certificates (providers)",
    "chain": "above others, and no anchor (chain)",
}

environment_option = click.option(
    "--environment",
    type=click.Choice([environment.value for environment in Environment]),
    help="Must be the settings' own; a guard against mix-ups.",
)


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne trust import certificates.zip
  varmenne trust import --from-aia
  varmenne trust check
"""
)
def trust() -> None:
    """Trust anchors: whose signatures on answers and certificates are believed.

    The services CA signs answers, the providers CA issues certificates, and chain holds what is above them. Test and
    production have folders of their own, and nothing is ever in two places.
    """


def _store(app: App, environment: str | None) -> TrustStore:
    """Return the trust folder of the settings' environment."""
    from varmenne.service.trust_store import TrustStore

    settings = app.settings(environment)
    return TrustStore(settings.trust_dir, settings.environment)


def _now() -> datetime:
    from varmenne.clock import system_clock

    return system_clock()


def _user() -> str:
    """Name the person or service that this process runs as, as the system knows it."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _shown(authority: Authority, role: str) -> dict[str, Any]:
    """Return what is told of a CA."""
    return {
        "role": role,
        "subject": authority.subject,
        "issuer": authority.issuer,
        "not_before": f"{authority.not_before:%Y-%m-%d}",
        "not_after": f"{authority.not_after:%Y-%m-%d}",
        "fingerprint_sha256": authority.fingerprint,
        "published": authority.published_as is not None,
    }


@trust.command(
    name="import",
    epilog=f"""{EXAMPLE}Examples:
  varmenne trust import root.cer intermediate.cer issuing.cer
  varmenne trust import package.zip --environment production
  varmenne trust import new-issuer.pem --role services --fingerprint 81:6E:39:…:5F:55
  varmenne trust import --from-aia
""",
)
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--role", type=click.Choice(ROLES), help="What a CA is for, if varmenne does not know its fingerprint.")
@click.option(
    "--fingerprint",
    "fingerprints",
    metavar="SHA256",
    multiple=True,
    help="A fingerprint that you have compared with its owner's; may be repeated. For scripts.",
)
@click.option("--from-aia", is_flag=True, help="Fetch the CAs above those that are known, from where these say.")
@environment_option
@common_options
@click.pass_obj
def import_(
    app: App,
    *,
    files: tuple[Path, ...],
    role: str | None,
    fingerprints: tuple[str, ...],
    from_aia: bool,
    environment: str | None,
) -> None:
    """Bring CA certificates in: PEM, DER, PKCS#7, or the zip packages that the service publishes.

    A published fingerprint is known and goes to its place by itself. For any other, its fingerprint is shown and has
    to be confirmed by typing, or be given with --fingerprint. All are looked at before any is written.
    """
    from varmenne.service.trust_store import whole_fingerprint

    if not files and not from_aia:
        raise InputError("There is nothing to import", next_step="Name files, or use --from-aia")
    store, now = _store(app, environment), _now()
    given = frozenset(map(whole_fingerprint, fingerprints))
    entries: list[Entry] = []
    there: list[dict[str, Any]] = []
    found = _found(app, store, files, from_aia=from_aia)
    _refuse_unused(given, found)
    for authority, source in found:
        # What comes from a pointer in a certificate is above that certificate, and never an anchor.
        wanted = "chain" if source.startswith("http") and authority.published_as is None else role
        place = store.place_of(authority, wanted)
        if store.refuse_unusable(authority, place, now):
            there.append(_shown(authority, place))
        else:
            entries.append(_believed(app, authority, place, source, given))
    store.add(entries, now, _user())
    brought = [{**_shown(entry.authority, entry.role), "ground": entry.ground.value} for entry in entries]
    lines = [f"imported   {line['role']:<10} {line['subject']}  until {line['not_after']}" for line in brought]
    lines += [f"is there   {line['role']:<10} {line['subject']}  until {line['not_after']}" for line in there]
    app.emit({"imported": brought, "already_there": there}, "\n".join(lines) or "Nothing new was found.")


def _refuse_unused(given: frozenset[str], found: list[tuple[Authority, str]]) -> None:
    """Refuse a fingerprint that no certificate has: what was compared is not what came.

    Raises:
        InputError: there is one.
    """
    from varmenne.service.trust_store import in_pairs

    for fingerprint in sorted(given - {authority.fingerprint for authority, _source in found}):
        raise InputError(
            f"No certificate has the fingerprint {in_pairs(fingerprint)}",
            why="the files hold " + (", ".join(in_pairs(authority.fingerprint) for authority, _s in found) or "none"),
            next_step="Nothing was imported. Compare again, or name the other file",
        )


def _found(app: App, store: TrustStore, files: tuple[Path, ...], *, from_aia: bool) -> list[tuple[Authority, str]]:
    """Read the files and ask the network; each certificate once, with where it came from."""
    from varmenne.service.trust_sources import fetch_issuers, read_file

    found = {authority.fingerprint: (authority, str(path)) for path in files for authority in read_file(path)}
    if from_aia:
        known = [stored.authority for stored in store.stored()] + [authority for authority, _source in found.values()]
        lost: list[tuple[str, str]] = []
        came = list(fetch_issuers(known, store.environment, tell=lambda url, why: lost.append((url, why))))
        for url, why in lost:
            app.warn(f"{url}: {why}")
        if lost and not came and not files:
            raise ServiceUnreachable(
                "No certificate could be fetched",
                why=f"{len(lost)} address{'es' if len(lost) > 1 else ''} asked, in vain",
                next_step="Check the network and the firewall, or download the files and import them by name",
            )
        for authority, url in came:
            found.setdefault(authority.fingerprint, (authority, url))
    return list(found.values())


def _believed(app: App, authority: Authority, role: str, source: str, given: frozenset[str]) -> Entry:
    """Return the certificate's entry, once there is a ground to believe it."""
    from varmenne.service.trust_store import Entry

    return Entry(authority, role, _ground(app, authority, role, given), source)


def _ground(app: App, authority: Authority, role: str, given: frozenset[str]) -> Ground:
    """Return why the certificate is believed; a person is asked if nothing else says so."""
    from varmenne.service.trust_store import Ground, in_pairs

    if authority.published_as is not None:
        return Ground.PUBLISHED
    if authority.fingerprint in given:
        return Ground.GIVEN
    if not sys.stdin.isatty():
        raise InputError(
            f"varmenne does not know the fingerprint of {authority.subject}",
            why=f"it is {in_pairs(authority.fingerprint)}",
            next_step="Compare it with the one that its owner publishes. If it is the same, add: --fingerprint SHA256",
        )
    app.say(f"varmenne does not know this certificate, which would be {ROLE_WORDS[role]}:")
    app.say(f"  subject   {authority.subject}\n  issuer    {authority.issuer}")
    app.say(f"  valid     {authority.not_before:%Y-%m-%d} to {authority.not_after:%Y-%m-%d}\n  SHA-256")
    # Half a line each, as such fingerprints are printed; nothing that a person compares is folded elsewhere.
    pairs = in_pairs(authority.fingerprint)
    app.say(f"    {pairs[:48]}\n    {pairs[48:]}")
    app.say("Compare the fingerprint with the one that its owner publishes, by another way than the file came.")
    typed = click.prompt(
        f"If it is the same, type its last {TYPED_DIGITS} digits", err=True, default="", show_default=False
    )
    if typed.strip().lower().replace(":", "") != authority.fingerprint[-TYPED_DIGITS:]:
        raise InputError(f"{authority.subject} was not confirmed", next_step="Nothing was imported")
    return Ground.TYPED


@trust.command(
    name="list",
    epilog=f"""{EXAMPLE}Examples:
  varmenne trust list
  varmenne trust list --json | jq -r '.[].fingerprint_sha256'
""",
)
@environment_option
@common_options
@click.pass_obj
def list_(app: App, *, environment: str | None) -> None:
    """List the CA certificates of the trust folder."""
    store = _store(app, environment)
    stored = store.stored()
    if not stored and not app.json:
        app.say(f"{store.directory} is empty. `varmenne trust import FILE…` fills it.")
        return
    grounds = store.grounds()
    app.emit(
        [
            {**_shown(item.authority, item.role), "file": str(item.path), "ground": _ground_of(item, grounds)}
            for item in stored
        ],
        "\n".join(_lines(item, grounds) for item in stored),
    )


def _ground_of(item: Stored, grounds: dict[tuple[str, str], str]) -> str:
    """Say why a certificate of the folder is believed."""
    if item.authority.published_as:
        return "published"
    return grounds.get((item.role, item.authority.fingerprint), "confirmed by nobody; varmenne does not know it")


def _lines(item: Stored, grounds: dict[tuple[str, str], str]) -> str:
    """Write a certificate in three lines."""
    from varmenne.service.trust_store import in_pairs

    return (
        f"{item.role:<10} {item.authority.subject}  until {item.authority.not_after:%Y-%m-%d}\n"
        f"           {in_pairs(item.authority.fingerprint)}\n"
        f"           {_ground_of(item, grounds)}"
    )


@trust.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne trust check
  varmenne trust check --json | jq '.[] | select(.verdict != "ok")'
"""
)
@environment_option
@common_options
@click.pass_obj
def check(app: App, *, environment: str | None) -> None:
    """Check that the trust folder is whole and private, why each CA is believed, and how long it lasts.

    A warning comes from a year before a CA ends. The exit code is 15 if anything fails.
    """
    import dataclasses

    from varmenne.service.trust_check import check_trust

    found = list(check_trust(_store(app, environment), _now()))
    lines = []
    for one in found:
        lines.append(f"{click.style(f'{one.verdict:<4}', fg=COLORS[one.verdict])}  {one.name}: {one.detail}")
        lines += [f"      → {one.next_step}"] if one.next_step else []
    app.emit([dataclasses.asdict(one) for one in found], "\n".join(lines))
    if any(one.verdict == "fail" for one in found):
        raise click.exceptions.Exit(ChecksFailed.exit_code)


@trust.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne trust remove 816e39fbb49a29ee
  varmenne trust remove 81:6E:39:FB:B4:9A:29:EE --json
"""
)
@click.argument("fingerprint", metavar="FINGERPRINT")
@environment_option
@common_options
@click.pass_obj
def remove(app: App, *, fingerprint: str, environment: str | None) -> None:
    """Take a CA out of the trust folder. At least 8 digits of its fingerprint name it."""
    store = _store(app, environment)
    item = store.find(fingerprint)
    store.remove(item, _now(), _user())
    app.emit(_shown(item.authority, item.role), f"removed    {item.role:<10} {item.authority.subject}")
