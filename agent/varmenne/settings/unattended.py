"""Settings of what happens by itself: renewal, the agent that does it, its hooks and its metrics."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import msgspec

from varmenne.domain.outlook import Plan
from varmenne.settings.kinds import Seconds

Days = Annotated[float, msgspec.Meta(ge=0, le=3_650)]


class RenewalSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When certificates are renewed, put to use and retired."""

    automatic: Annotated[
        bool, msgspec.Meta(description="Whether the agent renews by itself; otherwise `varmenne renew` does, by order.")
    ] = True
    spread_days: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=30)],
        msgspec.Meta(
            description="Renewal is accepted from 60 days before the end. Each certificate has a moment of its own "
            "within so many days after that, so that a fleet does not renew in one hour."
        ),
    ] = 5.0
    attempts_per_day: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=24)],
        msgspec.Meta(description="How often a day the renewal of one certificate is sent, at most."),
    ] = 4
    rehearse_days: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=365)],
        msgspec.Meta(description="Days between two rehearsals of a certificate's renewal."),
    ] = 7.0
    lead_days: Annotated[
        Days,
        msgspec.Meta(
            description="Days that people need to order a new certificate: so long before its end, a certificate that "
            "is not renewed needs a person."
        ),
    ] = 21.0
    grace_days: Annotated[
        Annotated[float, msgspec.Meta(ge=1, le=730)],
        msgspec.Meta(description="Days for which a replaced certificate stays in use, at least one."),
    ] = 7.0
    destroy_after_days: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=3_650)] | None,
        msgspec.Meta(
            description="Days after its retirement when a key is destroyed in the token. Not set: keys are kept."
        ),
    ] = None
    activation_windows: Annotated[
        list[str],
        msgspec.Meta(
            description="When a renewed certificate may be put to use, such as `Mon-Fri 08:00-15:00`. Empty: any time."
        ),
    ] = []
    time_zone: Annotated[str, msgspec.Meta(description="Time zone of the windows.")] = "Europe/Helsinki"

    @property
    def plan(self) -> Plan:
        """When renewals are begun, for :mod:`varmenne.domain.outlook`."""
        return Plan(timedelta(days=self.spread_days), timedelta(days=self.lead_days), automatic=self.automatic)


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent, `varmenne run`."""

    workers: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=64)],
        msgspec.Meta(
            description="How many certificates are worked on at once: each worker has a session with the token and at "
            "most one call in flight to the service."
        ),
    ] = 2
    longest_sleep_seconds: Annotated[
        Seconds,
        msgspec.Meta(description="How long it sleeps at most before it looks for work that others have left."),
    ] = 60.0
    log_format: Annotated[
        str, msgspec.Meta(pattern=r"^(text|json)$", description="`text` for people, or `json`: one object per line.")
    ] = "text"


class HookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Programs of yours that are run when something happens."""

    directory: Annotated[
        str,
        msgspec.Meta(
            description="Folder with a folder for each event, `pre-activate`, `post-activate`, `failed` and "
            "`attention`, that holds executables. Empty: none are run."
        ),
    ] = ""
    timeout_seconds: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=900)],
        msgspec.Meta(description="Longest time for one of them; then it is ended, with all that it has started."),
    ] = 60.0
    user: Annotated[
        str, msgspec.Meta(description="User that they are run as, where the agent may choose. Empty: the agent's own.")
    ] = ""


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prometheus metrics of the agent."""

    listen: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(|unix:.+|(127\.0\.0\.1|\[::1\]|localhost):[0-9]{1,5})$",
            description="Where they are served: `127.0.0.1:9105`, or `unix:PATH`. Empty: nowhere.",
        ),
    ] = ""
    textfile: Annotated[
        str,
        msgspec.Meta(description="File that they are written to, for node_exporter's textfile collector. Empty: none."),
    ] = ""
