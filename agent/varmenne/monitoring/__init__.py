"""What others see of the agent: its log, in one vocabulary of events, and its metrics.

The libraries for metrics are loaded only where metrics are wanted.
"""

from varmenne.monitoring.events import Event, log_event
from varmenne.monitoring.exposure import Exposure, exposed
from varmenne.monitoring.logs import log_to_stderr

__all__ = ["Event", "Exposure", "exposed", "log_event", "log_to_stderr"]
