"""``completion``: the completion script for a shell, made by click from the commands themselves."""

from __future__ import annotations

import click

from varmenne.cli.common import EXAMPLE, common_options


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne completion bash > /etc/bash_completion.d/varmenne
  varmenne completion zsh > ~/.zfunc/_varmenne
  varmenne completion fish > ~/.config/fish/completions/varmenne.fish
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
def completion(*, shell: str) -> None:
    """Print the completion script for a shell."""
    from click.shell_completion import get_completion_class

    from varmenne.cli.program import program

    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(program, {}, "varmenne", "_VARMENNE_COMPLETE").source())
