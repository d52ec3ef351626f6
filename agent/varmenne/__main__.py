"""``python -m varmenne``: the same as the ``varmenne`` command."""

from varmenne.cli import main

if __name__ == "__main__":
    main()
