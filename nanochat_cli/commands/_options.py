"""What every leaf command shares: options from config dataclasses, `--json`, `-q`, `-v`, `-c`, `--set`, `--dry-run`."""

import functools
import importlib
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from nanochat_cli.core import config, registry
from nanochat_cli.output import Output

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
DryRunOpt = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.", rich_help_panel="Common")
]
YesOpt = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.", rich_help_panel="Common")]
_JSON = typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel="Common")
_QUIET = typer.Option("--quiet", "-q", help="No progress and no notes.", rich_help_panel="Common")
_VERBOSE = typer.Option("--verbose", "-v", help="Say more.", rich_help_panel="Common")
_CONFIG = typer.Option(
    "--config", "-c", help="Config file or recipe name; repeatable.", metavar="FILE", rich_help_panel="Common"
)
_SET = typer.Option(
    "--set", help="Any option by its full name; repeatable.", metavar="SECTION.KEY=VALUE", rich_help_panel="Common"
)


def leaf(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--json`, `-q` and `-v`, and pass it an `Output` as its parameter `out`."""
    common = [
        _parameter("json_mode", bool, _JSON, False),
        _parameter("quiet", bool, _QUIET, False),
        _parameter("verbose", bool, _VERBOSE, False),
    ]

    def call(kwargs: dict[str, Any]) -> Any:
        out = Output(json_mode=kwargs.pop("json_mode"), quiet=kwargs.pop("quiet"), verbose=kwargs.pop("verbose"))
        return function(**kwargs, out=out)

    own = [p for p in _own_parameters(function) if p.name != "out"]
    return _command(function, call, own + common)


def options_from(cls: type, command: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command every option of a config class, and pass it the merged config as its first parameter.

    Strings are read by the config layer, so a value is checked alike from a flag, a file or the environment. The
    function may ask for a parameter `resolved` to learn where each value came from. Apply below `@leaf`.
    """
    table = {f"{o.section}__{o.key}": o for o in config.options(cls) if o.flag}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        first, *rest = _own_parameters(function)
        wants_resolved = any(p.name == "resolved" for p in rest)
        flags = [_parameter(name, _flag_type(o), _flag(o), None) for name, o in table.items()]
        extra = [_parameter("config_files", list[str], _CONFIG, []), _parameter("sets", list[str], _SET, [])]

        def call(kwargs: dict[str, Any]) -> Any:
            given = {table[name].path: kwargs.pop(name) for name in list(table) if name in kwargs}
            given = {path: value for path, value in given.items() if value is not None and value != []}
            resolved = config.resolve(
                cls, command=command, flags=given, sets=kwargs.pop("sets"), files=kwargs.pop("config_files")
            )
            if wants_resolved:
                kwargs["resolved"] = resolved
            return function(**{first.name: resolved.config}, **kwargs)

        own = [p for p in rest if p.name != "resolved"]
        return _command(function, call, own + flags + extra)

    return decorate


_PANELS = {
    "optim": "Optimizer",
    "eval": "Evaluation",
    "save": "Checkpoints",
    "guard": "When something goes wrong",
    "track": "Tracking",
    "rl": "Reinforcement learning",
    "tune": "Training a part of the model",
    "what": "Questions",
}


_OPEN_CHOICES = {"task": "nanochat_cli.core.tasks", "arch": "nanochat_cli.core.models"}
"""Options that take the name of a file in a package, which is looked up when it is asked for."""


def _completed(choices: tuple[str, ...] | str, incomplete: str) -> list[str]:
    """Return the words of a list, or the modules of a package, that begin so."""
    if isinstance(choices, str):
        choices = tuple(registry.names(importlib.import_module(choices)))
    return [choice for choice in choices if choice.startswith(incomplete)]


def _flag_type(option: config.Option) -> Any:
    bare = config.strip_optional(option.type)
    if bare is bool:
        return bool | None
    return list[str] if typing.get_origin(bare) is tuple else str | None


def _flag(option: config.Option) -> Any:
    bare = config.strip_optional(option.type)
    is_list = typing.get_origin(bare) is tuple
    default = option.default
    shown = "" if default is None or default == () else f" [default: {_show_default(default)}]"
    choices = option.choices or _OPEN_CHOICES.get(option.key, ())
    names = [option.flag or "", *([option.short] if option.short else [])]
    if bare is bool:
        names[0] = f"{names[0]}/--no-{names[0].removeprefix('--')}"
    metavar = None if bare is bool else "TEXT" if is_list else "|".join(map(_metavar, config.union_parts(bare)))
    complete = (lambda incomplete: _completed(choices, incomplete)) if choices else None
    return typer.Option(
        *names,
        help=option.help + shown,
        show_default=False,
        metavar=metavar,
        autocompletion=complete,
        rich_help_panel=_PANELS.get(option.section, option.section.capitalize()),
    )


def _metavar(bare: Any) -> str:
    if typing.get_origin(bare) is typing.Literal:
        return "|".join(typing.get_args(bare))
    return {int: "INT", float: "NUM", str: "TEXT"}.get(bare, "PATH")


def _show_default(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return (
        ",".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _parameter(name: str, hint: Any, info: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, info])


def _own_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _command(
    function: Callable[..., Any], call: Callable[[dict[str, Any]], Any], parameters: list[inspect.Parameter]
) -> Callable[..., Any]:
    """Return a function with the given signature that hands its arguments to `call` as one dict."""

    @functools.wraps(function)
    def command(**kwargs: Any) -> Any:
        return call(kwargs)

    del command.__wrapped__  # the signature below must win over the wrapped function's
    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    command.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in keyword_only}
    return command


_WITHOUT_VALUE = {"--resume": "newest"}
"""Options whose value may be left out, and what it is then."""


def _takes(parameter: Any, name: str) -> bool:
    return name in parameter.opts and not getattr(parameter, "is_flag", False)


class PanelCommand(TyperCommand):
    """A command whose plain help groups the options by section, without a markup library."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read the arguments, after giving a value to those options that may go without one."""
        mine = {name: value for name, value in _WITHOUT_VALUE.items() if any(_takes(p, name) for p in self.params)}
        full: list[str] = []
        for at, arg in enumerate(args):
            full.append(arg)
            after = args[at + 1] if at + 1 < len(args) else "--"
            if arg in mine and not (after.isdigit() or after in ("auto", mine[arg])):
                full.append(mine[arg])
        return super().parse_args(ctx, full)  # type: ignore[arg-type]

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[arg-type]
            if record := parameter.get_help_record(ctx):  # type: ignore[arg-type]
                is_argument = parameter.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                panels.setdefault("Common" if parameter.name == "help" else panel, []).append(record)
        common = panels.pop("Common", [])
        for title, records in [*panels.items(), ("Common", common)]:
            with formatter.section(title):
                formatter.write_dl(records)


class App(typer.Typer):
    """A command group whose commands have plain, grouped help."""

    def __init__(self, help: str, *, single: bool = False) -> None:
        super().__init__(
            help=help,
            rich_markup_mode=None,
            add_completion=False,
            no_args_is_help=not single,
            context_settings=SETTINGS,
        )

    def command(self, name: str | None = None, **kwargs: Any) -> Any:
        """Register a command, by default of the class with grouped help."""
        kwargs.setdefault("cls", PanelCommand)
        kwargs.setdefault("context_settings", SETTINGS)
        return super().command(name, **kwargs)
