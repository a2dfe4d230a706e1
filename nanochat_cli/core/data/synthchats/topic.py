"""A topic: who the assistant is, as its file says it."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_cli.core import files
from nanochat_cli.core.errors import ConfigError, MissingArtifact

EXAMPLE = Path(__file__).resolve().parents[3] / "topics" / "identity.toml"
MAX_NUMBER = 100_000
_KEYS = ("name", "persona", "facts", "styles", "number", "seed_questions", "languages")
_MOST = {"facts": 500, "styles": 100, "seed_questions": 1000, "languages": 50}
_LONGEST = 1000


@dataclass(frozen=True)
class Fact:
    """A sentence that the assistant may say; `about` is the indirect question that it answers."""

    text: str
    about: str | None = None


@dataclass(frozen=True, kw_only=True)
class Topic:
    """What conversations are about. `sha256` is that of the file's content."""

    name: str
    persona: str
    facts: tuple[Fact, ...]
    styles: tuple[str, ...] = ()
    number: int = 500
    seed_questions: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("English",)
    sha256: str = ""


def read(path: str | Path) -> Topic:
    """Return the topic of a TOML file. Raises MissingArtifact, or ConfigError naming file and key."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingArtifact(f"no topic file: {path}", hint="an example: nanochat data synth-chats --example")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(f"topic file cannot be read: {path} ({problem})") from None
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            raise ConfigError(
                f"unknown key in topic {path}: {key}",
                hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(_KEYS)}",
            )
    facts = tuple(_fact(value, f"facts {n}", path) for n, value in enumerate(_list(table, "facts", path), start=1))
    if not facts:
        raise ConfigError(f"a topic needs facts: {path}")
    return Topic(
        name=_text(table.get("name"), "name", path),
        persona=_text(table.get("persona"), "persona", path).rstrip("."),
        facts=facts,
        styles=_texts(table, "styles", path),
        number=_number(table.get("number", Topic.number), path),
        seed_questions=_texts(table, "seed_questions", path),
        languages=_texts(table, "languages", path) or Topic.languages,
        sha256=files.sha256_file(path),
    )


def _number(value: Any, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_NUMBER:
        raise ConfigError(f"number must be from 1 to {MAX_NUMBER:,} in topic {path}: {value!r}")
    return value


def _list(table: dict[str, Any], key: str, path: Path) -> list[Any]:
    values = table.get(key, [])
    if not isinstance(values, list) or len(values) > _MOST[key]:
        raise ConfigError(f"{key} must be a list of at most {_MOST[key]} in topic {path}")
    return values


def _texts(table: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    return tuple(_text(value, f"{key} {n}", path) for n, value in enumerate(_list(table, key, path), start=1))


def _fact(value: Any, where: str, path: Path) -> Fact:
    if not isinstance(value, dict):
        return Fact(_text(value, where, path))
    if strange := sorted(set(value) - {"text", "about"}):
        raise ConfigError(f"unknown key of {where} in topic {path}: {strange[0]}", hint="known: text, about")
    about = None if "about" not in value else _text(value["about"], f"{where}, about", path).rstrip("?")
    return Fact(_text(value.get("text"), where, path), about)


def _text(value: Any, where: str, path: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} must be text in topic {path}: {value!r}")
    if len(value) > _LONGEST:
        raise ConfigError(f"{where} is longer than {_LONGEST} characters in topic {path}: {len(value)}")
    return " ".join(value.split())
