"""``varmenne --help`` as a whole process, against Python importing the command-line library alone."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import medians, report

ROUNDS = 30


def main() -> None:
    """Print the ratio."""

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    times = medians(
        {
            "help": lambda: run(
                "-c", "import sys; sys.argv = ['varmenne', '--help']; from varmenne.cli import main; main()"
            ),
            "library": lambda: run("-c", "import click"),
        },
        rounds=ROUNDS,
    )
    detail = f"{times['help'] * 1e3:.0f} ms ÷ {times['library'] * 1e3:.0f} ms"
    report("varmenne --help ÷ importing the CLI library", times["help"] / times["library"], 1.5, detail)


if __name__ == "__main__":
    main()
