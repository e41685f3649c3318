"""`octavo completion SHELL`: what makes a shell complete commands and options at the Tab key."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_OCTAVO_COMPLETE"  # click's way to ask a program for completions


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script for SHELL, to be put where it reads such things.

    \b
    bash:  octavo completion bash > ~/.local/share/bash-completion/completions/octavo
    zsh:   octavo completion zsh > ~/.octavo-completion; echo '. ~/.octavo-completion' >> ~/.zshrc
    fish:  octavo completion fish > ~/.config/fish/completions/octavo.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    root = ctx.find_root()
    try:
        script = kind(root.command, {}, "octavo", VARIABLE).source()
    except RuntimeError as error:  # a bash that is too old, or none
        raise click.ClickException(str(error)) from error
    click.echo(script)
