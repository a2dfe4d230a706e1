"""`nanochat completion SHELL`: prints the script that teaches a shell our commands and options."""

import enum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # pyright: ignore[reportPrivateImportUsage]

from nanochat_cli.commands._options import App, leaf
from nanochat_cli.output import Output

app = App("Print a shell completion script.", single=True)


class Shell(enum.StrEnum):
    """Shells that can be taught."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@app.command()
@leaf
def completion(out: Output, shell: Annotated[Shell, typer.Argument(help="Which shell.")]) -> None:
    """Print a shell's completion script; `nanochat --install-completion` installs it."""
    out.text(get_completion_script(prog_name="nanochat", complete_var="_NANOCHAT_COMPLETE", shell=shell.value))
