"""The executable: mounts the commands lazily and turns an error into one line and an exit code."""

import difflib
import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nanochat_cli import __version__
from nanochat_cli.core.errors import EXIT_BUG, EXIT_INTERRUPTED, NanochatError
from nanochat_cli.output import Output

# name -> (module that defines `app`, one line of help); a module is imported only when its command is used.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Train a small model from nothing, offline, and talk to it."),
    "run": ("run", "Run the stages of a recipe, from the first one that is not done."),
    "data": ("data", "Corpora: download, make, add, list, verify, show."),
    "tok": ("tok", "Tokenizers: train, encode, decode, inspect."),
    "train": ("train", "Train a model: base, mid, sft, rl."),
    "eval": ("eval", "Measure a model: bits per byte and held-out questions."),
    "chat": ("chat", "Talk to a model in the terminal."),
    "runs": ("runs", "Runs and their checkpoints."),
    "report": ("report", "Write a run's report as Markdown and HTML."),
    "plan": ("plan", "What a training needs: parameters, memory, data, hours and cost."),
    "bench": ("bench", "Measure how fast this machine trains."),
    "doctor": ("doctor", "Check what this machine has and lacks."),
    "config": ("config", "Show every option of a command and where its value comes from."),
    "completion": ("completion", "Print a shell completion script."),
}
# The root of the command-line parser's errors; typer exports only the leaves.
_ParserError: type[Exception] = typer.BadParameter.__mro__[2]


class LazyGroup(TyperGroup):
    """The root group: knows every command's name and one line, and imports the one that is asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"nanochat_cli.commands.{COMMANDS[cmd_name][0]}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no such command: {args[0]}" + (f" (did you mean {near[0]}?)" if near else ""))
        return super().resolve_command(ctx, args)  # type: ignore[arg-type]

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,
    add_completion=True,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        Output().text(f"nanochat {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From raw text to a model that you can talk to.

    Start with `nanochat demo`: it trains a small model on this machine in minutes, offline.
    """


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 failed, 2 usage, 3 missing artifact and so on."""
    output = Output()
    try:
        code = app(args=argv, prog_name="nanochat", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except NanochatError as problem:
        output.error(str(problem), problem.hint)
        return problem.exit_code
    except _ParserError as problem:
        return _usage_error(output, problem)
    except (KeyboardInterrupt, typer.Abort):
        output.error("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as problem:
        if os.environ.get("NANOCHAT_DEBUG"):
            raise
        output.error(
            f"a bug in nanochat: {type(problem).__name__}: {problem}",
            "NANOCHAT_DEBUG=1 shows the traceback; please report it with the command",
        )
        return EXIT_BUG


def _usage_error(output: Output, problem: Any) -> int:
    if type(problem).__name__ == "NoArgsIsHelpError":  # a group called without a command: its help is the message
        output.tell(problem.format_message())
        return problem.exit_code
    message = problem.format_message().strip().rstrip(".")
    context = getattr(problem, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else None
    output.error(message[:1].lower() + message[1:], hint)
    return problem.exit_code


def main() -> None:
    """Entry point of the `nanochat` executable."""
    sys.exit(run())


if __name__ == "__main__":
    main()
