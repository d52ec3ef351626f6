"""Options that several commands take, declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from varmenne.domain import identifiers as ids

if TYPE_CHECKING:
    from varmenne.cli.common import App
    from varmenne.enrollment.enroll import Order

F = TypeVar("F", bound=Callable[..., Any])

channel_option = click.option(
    "--channel",
    type=click.Choice(list(ids.Channel)),
    default=ids.Channel.WS,
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
    return click.option("--customer-id", metavar="ID", required=True, help="Business ID or other customer ID.")(command)


def order_of(
    app: App, environment: ids.Environment, *, customer: str, name: str | None, channel: str, replaces: str | None
) -> Order:
    """Parse what a person gave into an order.

    Raises:
        InputError: a value breaks the service's limits.
    """
    from varmenne.enrollment.enroll import Order

    order = Order(
        customer=ids.customer_id(customer),
        name=None if name is None else ids.customer_name(name),
        channel=ids.Channel(channel),
        replaces=None if replaces is None else ids.enrollment_id(replaces),
    )
    if environment is ids.Environment.PRODUCTION and ids.business_id_looks_wrong(customer):
        app.warn(f"{customer} looks like a business ID, but its check digit is wrong.")
    return order
