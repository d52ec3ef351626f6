"""Options that several commands take, declared once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

from varmenne.domain import identifiers as ids
from varmenne.errors import InputError

if TYPE_CHECKING:
    from varmenne.cli.common import App
    from varmenne.enrollment.enroll import Order
    from varmenne.enrollment.parts import Parts
    from varmenne.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


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


def customer_options(command: F) -> F:
    """Add the options that name the customer."""
    command = click.option("--customer-name", metavar="NAME", help="The customer's name, as in the order.")(command)
    return click.option(
        "--customer-id", metavar="ID", help="Business ID or other customer ID; otherwise the settings' customer."
    )(command)


def order_of(
    app: App, settings: Settings, *, customer: str | None, name: str | None, channel: str, replaces: str | None
) -> Order:
    """Parse what a person gave into an order; the settings fill in the customer where none is named.

    Raises:
        InputError: a value breaks the service's limits, or there is no customer.
    """
    from varmenne.enrollment.enroll import Order

    if customer is None:
        if not settings.customer.id:
            raise InputError(
                "No customer is named", next_step="Give --customer-id, or set `customer.id` in the settings"
            )
        customer, name = settings.customer.id, name or settings.customer.name or None
    order = Order(
        customer=ids.customer_id(customer),
        name=None if name is None else ids.customer_name(name),
        channel=ids.Channel(channel),
        replaces=None if replaces is None else ids.enrollment_id(replaces),
    )
    if settings.environment is ids.Environment.PRODUCTION and ids.business_id_looks_wrong(customer):
        app.warn(f"{customer} looks like a business ID, but its check digit is wrong.")
    return order


def wait_limit(parts: Parts, wait: float | None) -> timedelta:
    """Return how long to wait for the certificate: as given, or as the settings say."""
    return timedelta(seconds=parts.settings.service.wait_limit_seconds if wait is None else wait)


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
