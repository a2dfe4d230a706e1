"""The tokenizers of the base directory, by name."""

from __future__ import annotations

from pathlib import Path

from nanochat_cli.core import files, paths
from nanochat_cli.core.errors import MissingArtifact
from nanochat_cli.core.tokenizer.tokenizer import INFO_FILE, Tokenizer


def names() -> list[str]:
    """Names of the tokenizers, sorted."""
    folder = paths.tokenizers_dir()
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and (p / INFO_FILE).is_file())


def find(name: str | None = None) -> Path:
    """Folder of the tokenizer called `name`, or at that path; without a name, of the one trained last.

    Raises MissingArtifact that lists the choices.
    """
    if name is None:
        newest = paths.newest(paths.tokenizers_dir(), INFO_FILE)
        if newest is None:
            raise MissingArtifact("there is no tokenizer yet", hint="train one: nanochat tok train")
        return newest
    folder = Path(name) if "/" in name else paths.tokenizer_dir(name)
    files.restore_dir(folder)
    if not (folder / INFO_FILE).is_file():
        known = names()
        hint = f"tokenizers here: {', '.join(known)}" if known else "train one: nanochat tok train"
        raise MissingArtifact(f"no such tokenizer: {name}", hint=hint)
    return folder


def open(name: str | None = None) -> Tokenizer:
    """The tokenizer that `find` finds. Raises DamagedArtifact if its files do not match their hashes."""
    return Tokenizer.load(find(name))
