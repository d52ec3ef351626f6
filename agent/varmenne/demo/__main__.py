"""``DIR/start`` of a kept demonstration: its parts in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from varmenne.demo.stage import Stage
from varmenne.errors import VarmenneError


def main() -> int:
    """Run the parts of the folder that is named, print ``ready``, and wait to be stopped."""
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        with Stage(Path(sys.argv[1]), keep=True):
            print("ready", flush=True)
            signal.sigwait(stops)
    except VarmenneError as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
