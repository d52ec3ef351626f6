"""Time that can be moved on, for the agent and the service alike: years pass in a test."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel
from varmenne.enrollment.agent import Agent
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.renew import renew
from varmenne.settings import Settings

WAIT = timedelta(seconds=20)
DAY = timedelta(days=1)
IN_THE_WINDOW = timedelta(days=730 - 50)
"""From the first certificate's begin to fifty days before its end."""


class Years:
    """A stage whose time can be moved on, for the agent and for the service alike."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.passed = timedelta()

    def pass_by(self, time: timedelta) -> None:
        """Let time pass."""
        self.passed += time
        self.stage.bench.state.advance_clock(time)

    def parts(self) -> Parts:
        """Return the parts, at the present moment."""
        return self.stage.parts(clock=lambda: system_clock() + self.passed)

    def agent(self, **changes: Any) -> Agent:
        """Return an agent at the present moment, whose waits make time pass instead."""
        if changes:
            self.stage.configure(**changes)

        def open_parts(settings: Settings) -> Parts:
            return Parts(settings, clock=lambda: system_clock() + self.passed)

        return Agent(self.stage.settings, open_parts=open_parts)

    def once(self, patience: timedelta = timedelta(seconds=10), **changes: Any) -> Agent:
        """Let an agent do what is due, and return it."""
        with self.agent(**changes) as agent:
            agent.once(patience)
        return agent

    def rows(self) -> tuple[Enrollment, ...]:
        """Return all enrollments, oldest first."""
        return tuple(sorted(self.stage.rows(), key=lambda row: row.created_at))

    def first(self, channel: Channel = Channel.WS) -> Enrollment:
        """Enroll for the first certificate."""
        order = self.stage.order(CUSTOMER, name=NAME, channel=channel)
        with self.parts() as parts:
            return enroll(
                parts,
                Listener(),
                order_for(CUSTOMER, name=NAME, channel=channel),
                self.stage.credentials(order),
                wait=WAIT,
            )

    def renewed(self, row: Enrollment) -> Enrollment:
        """Renew a certificate."""
        with self.parts() as parts:
            return renew(parts, Listener(), row, wait=WAIT)

    def get(self, row: Enrollment) -> Enrollment:
        """Return an enrollment as it is now."""
        with self.parts() as parts:
            return parts.journal.get(row.id)

    def operations(self) -> list[str]:
        """Return what the service was asked, in order."""
        return [str(line.as_json()["operation"]) for line in self.stage.bench.state.log()]

    def record(self, name: str = "current", channel: str = "ws") -> dict[str, Any]:
        """Return a record in Vault."""
        vault = self.stage.vault
        answer: dict[str, Any] = vault.root.secrets.kv.v2.read_secret_version(
            f"{vault.settings.prefix}/test/{CUSTOMER}/{channel}/{name}",
            mount_point=vault.settings.mount,
            raise_on_deleted_version=True,
        )
        data: dict[str, Any] = answer["data"]["data"]
        return data
