"""Whether wandb would find a key: in WANDB_API_KEY, or where `wandb login` leaves it, in the netrc file.

Only that there is one is told; it is neither returned nor shown. Source: docs.wandb.ai, environment variables; the
netrc format of ftp(1), as Python's own `netrc` reads it.
"""

from __future__ import annotations

import configparser
import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

_SERVER = "https://api.wandb.ai"


def lacking(environ: Mapping[str, str]) -> str | None:
    """Return why wandb would have to ask for a key, in words; None if it has one."""
    if environ.get("WANDB_API_KEY"):
        return None
    path = _netrc_path(environ)
    if path is None:
        return "WANDB_API_KEY is not set, and there is no ~/.netrc"
    host = urlsplit(_server(environ)).hostname or ""
    try:
        found = netrc.netrc(str(path)).authenticators(host)
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as problem:
        return f"WANDB_API_KEY is not set, and {path} cannot be read ({type(problem).__name__})"
    return None if found and found[2] else f"WANDB_API_KEY is not set, and {path} has none for {host}"


def _netrc_path(environ: Mapping[str, str]) -> Path | None:
    if named := environ.get("NETRC"):
        return path if (path := Path(named).expanduser()).is_file() else None
    home = Path(environ.get("HOME") or Path.home())
    return next((path for name in (".netrc", "_netrc") if (path := home / name).is_file()), None)


def _server(environ: Mapping[str, str]) -> str:
    """The address of the server, which may be one's own: of the environment, else as `wandb login --host` noted it."""
    if named := environ.get("WANDB_BASE_URL"):
        return named
    folder = environ.get("WANDB_CONFIG_DIR") or Path(environ.get("HOME") or Path.home()) / ".config" / "wandb"
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(Path(folder) / "settings", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return _SERVER
    return settings.get("default", "base_url", fallback=_SERVER)
