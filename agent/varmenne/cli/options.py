"""Options that several commands take, declared once."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from varmenne.domain import identifiers as ids
from varmenne.errors import InputError, VarmenneError

if TYPE_CHECKING:
    from varmenne.cli.common import App
    from varmenne.enrollment.enroll import Order
    from varmenne.enrollment.parts import Parts

F = TypeVar("F", bound=Callable[..., Any])

MOST_OFFERED = 100
"""Enrollment IDs that a shell is offered at a time."""


def complete_id(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer a shell the IDs of enrollments that begin so, the newest of them; none where the journal cannot be read."""
    from varmenne.cli.common import App
    from varmenne.journal import Journal
    from varmenne.journal.database import JOURNAL_NAME

    try:
        with warnings.catch_warnings(action="ignore"):
            settings = context.ensure_object(App).settings()
            state_dir, source = Path(settings.state_dir), settings.journal.password
            known = source != "prompt" if settings.journal.url else (state_dir / JOURNAL_NAME).exists()
            if not known:
                return []
            with Journal(state_dir, settings.journal) as journal:
                after = journal.every(after=begun, documents=False)
                rows = deque(itertools.takewhile(lambda row: row.id.startswith(begun), after), maxlen=MOST_OFFERED)
    except VarmenneError:
        return []
    return [CompletionItem(row.id, help=f"{row.state}, {row.customer_id} {row.channel}") for row in rows]


def complete_file(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Let a shell offer files."""
    return [CompletionItem(begun, type="file")]


id_argument = click.argument("enrollment", metavar="ID", shell_complete=complete_id)

id_argument_if_any = click.argument("enrollment", metavar="[ID]", required=False, shell_complete=complete_id)


def one_of(words: type[StrEnum]) -> click.Choice[str]:
    """Return the type of an option that takes one word of an enumeration (click itself would take the names)."""
    return click.Choice([word.value for word in words])


channel_option = click.option(
    "--channel",
    type=one_of(ids.Channel),
    default=ids.Channel.WS.value,
    show_default=True,
    help="What the certificate is for: Web Service or SFTP, as ordered.",
)

wait_option = click.option(
    "--wait",
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="How long to wait for the certificate before leaving the rest to `resume`; otherwise as the settings say.",
)


def order_options(command: F) -> F:
    """Add the options that tell what is ordered; :func:`order_of` fills in what is left out."""
    for option in (
        click.option(
            "--replaces",
            metavar="ID",
            shell_complete=complete_id,
            help="The enrollment whose certificate the new one takes the place of. Customer, name and channel are "
            "its own, unless given.",
        ),
        click.option(
            "--channel",
            type=one_of(ids.Channel),
            help="What the certificate is for: Web Service or SFTP, as ordered; otherwise that of --replaces, or ws.",
        ),
        click.option("--customer-name", metavar="NAME", help="The customer's name, as in the order."),
        click.option(
            "--customer-id",
            metavar="ID",
            help="Business ID or other customer ID; otherwise that of --replaces, or the settings' customer.",
        ),
    ):
        command = option(command)
    return command


def order_of(
    app: App, parts: Parts, *, customer: str | None, name: str | None, channel: str | None, replaces: str | None
) -> Order:
    """Parse what a person gave into an order.

    What is not given is taken from the enrollment to be replaced, since an old order is the template of the new one,
    then from the settings. Whether all of it fits the certificate that is replaced, the use case sees.

    Raises:
        InputError: a value breaks the service's limits, or there is no customer.
    """
    from varmenne.enrollment.enroll import Order, template

    home = parts.settings.customer
    old = None if replaces is None else template(parts, ids.enrollment_id(replaces))
    unnamed = customer is None
    if customer is None:
        customer = home.id if old is None else old.customer_id
        if not customer:
            raise InputError(
                "No customer is named", next_step="Give --customer-id, or set `customer.id` in the settings"
            )
    if name is None and old is not None and old.customer_id == customer:
        name = old.customer_name
    if name is None and unnamed and home.id == customer:
        name = home.name or None
    order = Order(
        customer=ids.customer_id(customer),
        name=None if name is None else ids.customer_name(name),
        channel=ids.Channel(channel or (ids.Channel.WS if old is None else old.channel)),
        replaces=None if replaces is None else ids.enrollment_id(replaces),
    )
    if parts.settings.environment is ids.Environment.PRODUCTION and ids.business_id_looks_wrong(customer):
        app.warn(f"{customer} looks like a business ID, but its check digit is wrong.")
    return order


def wait_limit(parts: Parts, wait: float | None) -> timedelta:
    """Return how long to wait for the certificate: as given, or as the settings say."""
    return timedelta(seconds=parts.settings.service.wait_limit_seconds if wait is None else wait)


def write_private(path: Path, content: bytes) -> None:
    """Write evidence to a new file that only its owner can read. Nothing is overwritten.

    Raises:
        InputError: there is something of that name, or it cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError as exc:
        raise InputError(
            f"{path} cannot be written",
            why=exc.strerror or str(exc),
            next_step="Name another one; nothing is overwritten",
        ) from exc


@contextlib.contextmanager
def reserved(out: Path, mode: int = 0o666) -> Iterator[None]:
    """Make a new, empty file of a mode, and remove it again if what should be in it fails.

    Raises:
        InputError: there is something of that name, or it cannot be made.
    """
    try:
        os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    except FileExistsError:
        raise InputError(f"{out} exists already", next_step="Name another file; nothing is overwritten") from None
    except OSError as exc:
        raise InputError(f"{out} cannot be written", why=exc.strerror or str(exc)) from exc
    try:
        yield
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def confirmed(given: str | None, wanted: str, consequence: str) -> None:
    """Have something typed that proves that its reader has seen it, or given by --confirm.

    Raises:
        InputError: something else was given, or there is nobody to type it.
    """
    if given is None:
        if not sys.stdin.isatty():
            raise InputError("This has to be confirmed", why=consequence, next_step=f"Add: --confirm {wanted}")
        given = click.prompt(f"{consequence} Type {wanted} to confirm", err=True)
    if given != wanted:
        raise InputError(f"Not confirmed: that is not {wanted}. Nothing was done")
