"""Where everything lives: one base directory, and a folder for each corpus, tokenizer and run in it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nanochat_cli.core.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def base_dir() -> Path:
    """Return the base directory: `NANOCHAT_BASE_DIR`, else the user's data folder for nanochat."""
    chosen = os.environ.get("NANOCHAT_BASE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("nanochat", appauthor=False)


def is_name(name: str) -> bool:
    """Return whether a text can be the name of a run, a corpus or a tokenizer."""
    return _NAME.fullmatch(name) is not None


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can be a folder of its own. Raises ConfigError otherwise, so no name is ever a path."""
    if not is_name(name):
        raise ConfigError(
            f"not a {kind} name: {name!r}",
            hint="use letters, digits, dots, dashes and underscores, and start with a letter or digit",
        )
    return name


def corpora_dir() -> Path:
    """Return the folder of all corpora."""
    return base_dir() / "data"


def corpus_dir(name: str) -> Path:
    """Return the folder of one corpus."""
    return corpora_dir() / check_name("corpus", name)


def tasks_dir() -> Path:
    """Return the folder of all downloaded data that is no corpus: tasks, chats, the evaluation bundle."""
    return base_dir() / "tasks"


def tokenizers_dir() -> Path:
    """Return the folder of all tokenizers."""
    return base_dir() / "tokenizers"


def tokenizer_dir(name: str) -> Path:
    """Return the folder of one tokenizer."""
    return tokenizers_dir() / check_name("tokenizer", name)


def runs_dir() -> Path:
    """Return the folder of all runs."""
    return base_dir() / "runs"


def run_dir(name: str) -> Path:
    """Return the folder of one run."""
    return runs_dir() / check_name("run", name)


def baselines_dir() -> Path:
    """Return the folder of what was measured of other people's models, to compare with."""
    return base_dir() / "baselines"


def cache_dir() -> Path:
    """Return the folder of what may be deleted at any time: start-up probes and compiled kernels."""
    return base_dir() / "cache"


def newest(folder: Path, marker: str) -> Path | None:
    """Return the subfolder whose `marker` file changed last, or None if no subfolder has one."""
    if not folder.is_dir():
        return None
    visible = [child for child in folder.iterdir() if not child.name.startswith(".")]  # not what a crash left behind
    found = [(child / marker) for child in visible if (child / marker).is_file()]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.parent.name)).parent if found else None
