"""`nanochat config show COMMAND`: every option, its value, and where the value came from."""

from typing import Annotated

import typer

from nanochat_cli.commands._options import App, leaf
from nanochat_cli.core import config
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.settings import COMMAND_CONFIGS
from nanochat_cli.output import Output

app = App("Show every option of a command and where its value comes from.")


@app.callback()
def _group() -> None:
    """Show every option of a command and where its value comes from."""


@app.command("show")
@leaf
def show(
    out: Output,
    command: Annotated[list[str], typer.Argument(help="A command, such as: train base.")],
    config_files: Annotated[list[str] | None, typer.Option("--config", "-c", help="Config file or recipe.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; repeatable.")] = None,
) -> None:
    """Print the options of a command as they would be used."""
    words = " ".join(command)
    if words not in COMMAND_CONFIGS:
        raise ConfigError(f"no config for command: {words}", hint=f"choose one of: {', '.join(COMMAND_CONFIGS)}")
    cls = COMMAND_CONFIGS[words]
    resolved = config.resolve(cls, command=words, sets=sets or (), files=config_files or ())
    values = config.flatten(config.to_dict(resolved.config), "config")
    rows = [(o.path, _shown(values[o.path], out), resolved.origin[o.path], o.env, o.help) for o in config.options(cls)]
    columns = ("option", "value", "from", "environment", "help")
    if not out.json_mode and not out.verbose:
        columns, rows = columns[:3], [row[:3] for row in rows]
    out.table(columns, rows)


def _shown(value: object, out: Output) -> object:
    return "auto" if value is None and not out.json_mode else value
