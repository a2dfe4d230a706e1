"""What files a data set on Hugging Face has, with their sizes and hashes: one question instead of one per file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from nanochat_cli.core.data.web import Refused, Transient, Web, clean_url, origin
from nanochat_cli.core.errors import DamagedArtifact, DataError

REVISION = "main"
_MAX_PAGES = 200


@dataclass(frozen=True)
class HubFile:
    """One file of a repository; `sha256` is known of those in large-file storage, as all parquet files are."""

    path: str
    size: int
    sha256: str | None


def file_url(endpoint: str, repo: str, path: str) -> str:
    """Return the address of a file of a data set."""
    return f"{endpoint}/datasets/{repo}/resolve/{REVISION}/{path}"


def listing(endpoint: str, repo: str, web: Web) -> list[HubFile]:
    """Return the files of a data set, by path. Raises Transient or Refused, and DataError for an answer of no use."""
    url: str | None = f"{endpoint}/api/datasets/{repo}/tree/{REVISION}?recursive=true"
    first, found = origin(endpoint), dict[str, HubFile]()
    for _ in range(_MAX_PAGES):
        entries, url = web.get_json(url)
        found |= {file.path: file for file in _files(entries)}
        if url is None:
            return [found[path] for path in sorted(found)]
        if origin(url) != first:
            raise DataError(f"the list of files goes on at another server: {clean_url(url)}")
    raise DataError(f"the list of files has more than {_MAX_PAGES} pages: {repo}")


def first_listing(endpoints: Sequence[str], repo: str, web: Web) -> list[HubFile]:
    """Return the list of the first endpoint that has one. Raises DataError with the last reason."""
    reason = "no address"
    for endpoint in endpoints:
        try:
            return listing(endpoint, repo, web)
        except (Transient, Refused, DataError) as problem:
            reason = f"{problem} ({clean_url(endpoint)})"
    raise DataError(
        f"the files of {repo} cannot be listed: {reason}",
        hint="try again, name a mirror with --mirror URL, or a folder that has the files with --from-dir DIR",
    )


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Return whether a path fits one of the patterns, of which each `*` stays within a folder."""
    parts = PurePosixPath(path)
    return any(len(parts.parts) == len(PurePosixPath(pattern).parts) and parts.match(pattern) for pattern in patterns)


def safe_path(path: Any) -> str:
    """Return a path that a server named, if it stays within a folder and clear of our own files there.

    Raises DamagedArtifact otherwise.
    """
    well = isinstance(path, str) and path and len(path) <= 500 and path.isprintable() and "\\" not in path
    parts = path.split("/") if well else []
    if not parts or any(not part or part.startswith(".") or ":" in part or len(part) > 200 for part in parts):
        raise DamagedArtifact(f"a list of files names one that cannot be kept: {path!r}")
    return path


def _files(entries: Any) -> Iterator[HubFile]:
    if not isinstance(entries, list):
        raise DataError("the list of files is no list")
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("type") != "file":
            continue
        lfs = entry.get("lfs")
        stored = lfs if isinstance(lfs, dict) else {}
        size, sha256 = stored.get("size", entry.get("size")), stored.get("oid")
        path = entry.get("path")
        if not isinstance(path, str) or not isinstance(size, int) or size < 0:
            raise DataError("the list of files has an entry without name or size")
        well = isinstance(sha256, str) and len(sha256) == 64 and all(c in "0123456789abcdef" for c in sha256)
        yield HubFile(path, size, sha256 if well else None)
