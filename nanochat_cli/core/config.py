"""Config from dataclasses: one field is a flag, a TOML key, an environment name, a saved value and a line of help.

A command's config is a frozen dataclass whose fields are sections; a section is a frozen dataclass of options made
with `opt`. Section = help panel = TOML table. Values come, strongest first, from the flag or `--set section.key=value`,
`NANOCHAT_<SECTION>_<KEY>`, `--config` files, `./nanochat.toml`, and the default; `Resolved.origin` remembers which.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from nanochat_cli.core.errors import ConfigError

C = TypeVar("C")
PROJECT_FILE = "nanochat.toml"
PRESET = "recipe.preset"
"""The option that names a preset: values above those of the project file and below everything that is given."""


def opt(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    flag: bool | str = True,
    short: str | None = None,
) -> Any:
    """Return a dataclass field that carries what every surface needs.

    `flag` False keeps the option to files and `--set`; a string renames the flag. None as value means automatic or off.
    """
    metadata = {"help": help, "min": min, "max": max, "flag": flag, "short": short}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """One option of a command's config, as seen from outside."""

    section: str
    key: str
    type: Any
    default: Any
    help: str
    min: float | None
    max: float | None
    flag: str | None
    short: str | None

    @property
    def path(self) -> str:
        """The name in TOML and `--set`."""
        return f"{self.section}.{self.key}"

    @property
    def env(self) -> str:
        """The name in the environment."""
        return f"NANOCHAT_{self.section}_{self.key}".upper()

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The allowed words, if the type lists them; a union like `int | Literal["auto"]` also takes other values."""
        listed = [part for part in union_parts(strip_optional(self.type)) if typing.get_origin(part) is Literal]
        return tuple(word for part in listed for word in typing.get_args(part)) or None


def union_parts(hint: Any) -> tuple[Any, ...]:
    """Return the types that a union is made of; of any other type, that type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def strip_optional(hint: Any) -> Any:
    """Return `X` for `X | None`, else the hint itself."""
    rest = tuple(part for part in union_parts(hint) if part is not type(None))
    return hint if len(rest) == len(union_parts(hint)) else typing.Union[rest]  # noqa: UP007 - of a tuple


def options(cls: type) -> Iterator[Option]:
    """Yield every option of a config class in declaration order."""
    for section, section_cls in typing.get_type_hints(cls).items():
        hints = typing.get_type_hints(section_cls)
        for field in dataclasses.fields(section_cls):
            meta = field.metadata
            flag = meta["flag"]
            yield Option(
                section=section,
                key=field.name,
                type=hints[field.name],
                default=field.default,
                help=meta["help"],
                min=meta["min"],
                max=meta["max"],
                flag=(flag if isinstance(flag, str) else f"--{field.name.replace('_', '-')}") if flag else None,
                short=meta["short"],
            )


@dataclass(frozen=True)
class Resolved(Generic[C]):
    """A config with the origin of each value."""

    config: C
    origin: dict[str, str]

    @property
    def typed(self) -> frozenset[str]:
        """The paths of the options given on the command line, as flags or with `--set`."""
        return frozenset(path for path, source in self.origin.items() if source == "--set" or _is_flag(source))


def _is_flag(source: str) -> bool:
    return source.startswith("--") and not source.startswith("--config ")


def resolve(
    cls: type[C],
    *,
    command: str,
    flags: Mapping[str, Any] | None = None,
    sets: Iterable[str] = (),
    files: Iterable[str] = (),
    recipe: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    project_file: Path | None = None,
) -> Resolved[C]:
    """Merge all sources into one config. Raises ConfigError that names the option and where the bad value came from.

    `flags` maps option paths to values as typed; `command` (such as "train base") selects tables in recipe files.
    """
    known = {option.path: option for option in options(cls)}
    values: dict[str, Any] = {path: option.default for path, option in known.items()}
    origin = dict.fromkeys(known, "default")

    def take(path: str, raw: Any, source: str) -> None:
        if path not in known:
            raise ConfigError(f"unknown config key in {source}: {path}", hint=_nearest(path, known))
        values[path] = coerce(raw, known[path], source)
        origin[path] = source

    project = project_file if project_file is not None else Path(PROJECT_FILE)
    if project.is_file():
        for path, raw in read_config_file(project, command).items():
            if path in known or path not in _keys_of_all_commands():
                take(path, raw, str(project))
    given = {name: read_config_file(find_config_file(name), command) for name in files}
    environ = os.environ if env is None else env
    if PRESET in known:
        option, typed = known[PRESET], [text.partition("=") for text in sets]
        sources: list[tuple[Any, str]] = [
            *((raw.strip(), "--set") for name, _, raw in reversed(typed) if name.strip() == PRESET),
            ((flags or {}).get(PRESET), option.flag or PRESET),
            (environ.get(option.env), option.env),
            ((recipe or {}).get(PRESET), "recipe"),
            *((tree.get(PRESET), f"--config {name}") for name, tree in reversed(given.items())),
            (values[PRESET], origin[PRESET]),
        ]
        chosen, source = next(((raw, source) for raw, source in sources if raw), (None, ""))
        for path, raw in _preset(chosen, option, command, source).items():
            if path in known or path not in _keys_of_all_commands():
                take(path, raw, f"preset {chosen}")
    for name, tree in given.items():
        for path, raw in tree.items():
            take(path, raw, f"--config {name}")
    for path, raw in (recipe or {}).items():
        take(path, raw, "recipe")
    for path, option in known.items():
        if option.env in environ:
            take(path, environ[option.env], option.env)
    _check_environment(environ, known)
    for path, raw in (flags or {}).items():
        take(path, raw, known[path].flag or path)
    for text in sets:
        path, equals, raw = text.partition("=")
        if not equals:
            raise ConfigError(f"--set needs section.key=value: {text}")
        take(path.strip(), raw.strip(), "--set")
    return Resolved(build(cls, values), origin)


def _preset(name: Any, option: Option, command: str, source: str) -> dict[str, Any]:
    """Return the options of a preset; none without a name. Raises ConfigError for an unknown one."""
    name = coerce(name, option, source)
    return {} if name is None else read_config_file(presets_dir() / f"{name}.toml", command)


def _check_environment(environ: Mapping[str, str], known: Mapping[str, Option]) -> None:
    """Raise ConfigError for a variable that begins like an option (NANOCHAT_MODEL_…) and is none of any command."""
    expected = {option.env for option in known.values()}
    strange = [name for name in environ if name.startswith("NANOCHAT_") and name not in expected]
    if not strange:
        return
    everywhere = {option.env: option for option in _options_of_all_commands()}
    sections = tuple({f"NANOCHAT_{option.section}_".upper() for option in everywhere.values()})
    for name in strange:
        near = difflib.get_close_matches(name, everywhere, n=1, cutoff=0.4 if name.startswith(sections) else 0.9)
        if name not in everywhere and (near or name.startswith(sections)):
            raise ConfigError(
                f"unknown config key in the environment: {name}", hint=f"did you mean {near[0]}?" if near else None
            )


def _options_of_all_commands() -> Iterator[Option]:
    from nanochat_cli.core.settings import COMMAND_CONFIGS

    for cls in COMMAND_CONFIGS.values():
        yield from options(cls)


def _keys_of_all_commands() -> set[str]:
    """The project file serves every command: keys of other commands are no mistake."""
    return {option.path for option in _options_of_all_commands()}


def build(cls: type[C], values: Mapping[str, Any]) -> C:
    """Return a config from values by option path; absent ones keep their default."""
    sections = {}
    for section, section_cls in typing.get_type_hints(cls).items():
        prefix = f"{section}."
        given = {path.removeprefix(prefix): value for path, value in values.items() if path.startswith(prefix)}
        sections[section] = section_cls(**given)
    return cls(**sections)


def to_dict(config: Any) -> dict[str, dict[str, Any]]:
    """Return a config as nested plain values, ready for JSON."""
    return {
        section.name: {key: _plain(value) for key, value in dataclasses.asdict(getattr(config, section.name)).items()}
        for section in dataclasses.fields(config)
    }


def from_dict(cls: type[C], tree: Mapping[str, Any], source: str) -> C:
    """Return the config that `to_dict` wrote. Unknown keys are errors naming the nearest one."""
    known = {option.path: option for option in options(cls)}
    values = {}
    for path, raw in flatten(tree, source).items():
        if path not in known:
            raise ConfigError(f"unknown config key in {source}: {path}", hint=_nearest(path, known))
        values[path] = coerce(raw, known[path], source)
    return build(cls, values)


def changed(config: Any) -> dict[str, Any]:
    """Return the options whose value differs from the default, by path."""
    tree = flatten(to_dict(config), "config")
    return {o.path: tree[o.path] for o in options(type(config)) if tree[o.path] != _plain(o.default)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _nearest(path: str, known: Mapping[str, Option]) -> str:
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.4)
    by_key = [p for p in known if p.split(".")[-1] == path.split(".")[-1]]
    best = by_key[:1] or near
    return f"did you mean {best[0]}?" if best else f"sections: {', '.join(sorted({o.section for o in known.values()}))}"


# ---- files -----------------------------------------------------------------------------------------------------------


def recipes_dir() -> Path:
    """Return the folder of recipes that come with the package."""
    return Path(__file__).resolve().parent.parent / "recipes"


def presets_dir() -> Path:
    """Return the folder of presets for `train base`, one file each."""
    return Path(__file__).resolve().parent.parent / "presets"


def find_config_file(name: str) -> Path:
    """Return the file behind a `--config` value: a path, or the name of a recipe."""
    path = Path(name)
    if path.is_file():
        return path
    recipe = recipes_dir() / f"{name}.toml"
    if path.name == name and recipe.is_file():
        return recipe
    known = ", ".join(sorted(p.stem for p in recipes_dir().glob("*.toml")))
    raise ConfigError(f"no such config file or recipe: {name}", hint=f"recipes: {known}")


def read_config_file(path: Path, command: str) -> dict[str, Any]:
    """Return the options that a TOML file, a recipe or a saved config.json holds for one command, by path."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, UnicodeDecodeError, RecursionError) as problem:
        raise ConfigError(f"cannot read config {path}: {problem}") from problem
    if not isinstance(tree, dict):
        raise ConfigError(f"cannot read config {path}: it holds no sections")
    if isinstance(tree.get("config"), dict):  # a stage's saved config.json keeps the options under this key
        tree = tree["config"]
    if isinstance(tree.get("stage"), list):  # a recipe: the tables of the stage that runs this command
        mine = [stage for stage in tree["stage"] if stage.get("command") == command]
        if not mine:
            raise ConfigError(f"recipe {path.stem} has no stage for: {command}")
        tree = {key: table for key, table in mine[-1].items() if isinstance(table, dict)}
    return flatten(tree, str(path))


def flatten(tree: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return {section: {key: value}} as {"section.key": value}."""
    flat = {}
    for section, table in tree.items():
        if not isinstance(table, Mapping):
            raise ConfigError(
                f"a value outside any section in {source}: {section}", hint=f"write [section] {section} = …"
            )
        for key, value in table.items():
            flat[f"{section}.{key}"] = value
    return flat


# ---- values ----------------------------------------------------------------------------------------------------------

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def coerce(raw: Any, option: Option, source: str) -> Any:
    """Return `raw` (text, TOML or JSON value) as the option's type. Raises ConfigError naming option and source."""
    hint = option.type
    optional = strip_optional(hint) is not hint
    if raw is None or (optional and isinstance(raw, str) and raw.lower() in ("none", "auto")):
        # "auto" and "none" are how a person writes None, unless the type itself has that word.
        if raw is None and optional:
            return None
        if optional and not (option.choices and str(raw).lower() in option.choices):
            return None
    bare = strip_optional(hint)
    try:
        value = _convert(raw, bare)
    except (ValueError, TypeError):
        raise ConfigError(f"{option.path} must be {describe(bare)} ({source}): {raw}") from None
    _check_bounds(value, option, source)
    return value


def _convert(raw: Any, bare: Any) -> Any:
    if len(parts := union_parts(bare)) > 1:
        for part in parts[:-1]:
            with contextlib.suppress(ValueError, TypeError):
                return _convert(raw, part)
        return _convert(raw, parts[-1])
    if typing.get_origin(bare) is Literal:
        if raw not in typing.get_args(bare):
            raise ValueError
        return raw
    if typing.get_origin(bare) is tuple:
        item = typing.get_args(bare)[0]
        parts = [part for part in raw.split(",") if part] if isinstance(raw, str) else list(raw)
        return tuple(_convert(part, item) for part in parts)
    if bare is bool:
        if isinstance(raw, bool):
            return raw
        return _WORDS[raw.lower()] if isinstance(raw, str) and raw.lower() in _WORDS else _fail()
    if bare is int:
        if isinstance(raw, bool):
            _fail()
        number = float(str(raw).replace("_", ""))
        return int(raw) if isinstance(raw, int) else int(number) if number.is_integer() else _fail()
    if bare is float:
        return float(raw) if not isinstance(raw, bool) else _fail()
    if bare is str:
        return raw if isinstance(raw, str) else str(raw) if isinstance(raw, int | float) else _fail()
    return bare(raw)


def _fail() -> Any:
    raise ValueError


def describe(bare: Any) -> str:
    """Return a type in words for an error message."""
    if len(parts := union_parts(bare)) > 1:
        return " or ".join(map(describe, parts))
    if typing.get_origin(bare) is Literal:
        words = typing.get_args(bare)
        return ("one of " if len(words) > 1 else "") + ", ".join(map(str, words))
    if typing.get_origin(bare) is tuple:
        return "a list"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(bare, "a path")


def _check_bounds(value: Any, option: Option, source: str) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value != value or (option.min is not None and value < option.min):
            raise ConfigError(f"{option.path} must be at least {option.min} ({source}): {value}")
        if option.max is not None and value > option.max:
            raise ConfigError(f"{option.path} must be at most {option.max} ({source}): {value}")
