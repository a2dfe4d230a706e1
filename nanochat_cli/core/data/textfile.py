"""Opening text that somebody else wrote: compressed or not, checked to be text, with every problem at its line."""

from __future__ import annotations

import contextlib
import difflib
import gzip
import io
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, cast

from nanochat_cli.core.errors import DataError

COMPRESSED = (".gz", ".zst")
LINE_BYTES = 1 << 20  # a longer line arrives in pieces of this size, so a file without line ends fits in memory

_SIGNATURES = {
    b"%PDF-1": "a PDF",
    b"PK\x03\x04": "a zip archive or office document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF87a": "a GIF image",
    b"GIF89a": "a GIF image",
    b"\x7fELF": "a program",
    b"\x1f\x8b": "compressed with gzip; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; let its name end in .zst",
    b"PAR1\x15": "parquet; let its name end in .parquet",
    b"\xff\xfe": "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8",
}


def kind_of(path: Path) -> str:
    """Return the suffix that says what is inside, in lower case and without `.gz` or `.zst`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def check_given(path: Path) -> None:
    """Raise DataError if a file that the user named is missing, empty or not a file."""
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in _siblings(path)], n=1)
        raise DataError(f"no such file: {path}", hint=f"did you mean {path.with_name(near[0])}?" if near else None)
    if not path.is_file():
        raise DataError(f"not a file: {path}")
    if path.stat().st_size == 0:
        raise DataError(f"the file is empty: {path}")


def _siblings(path: Path) -> list[Path]:
    try:
        return list(path.parent.iterdir())[:10_000]
    except OSError:
        return []


_METER: ContextVar[Callable[[float], None] | None] = ContextVar("meter", default=None)


@contextlib.contextmanager
def metered(tell: Callable[[float], None]) -> Iterator[None]:
    """Within the block, tell how many bytes of a file were read so far, as it lies on the disk (so, compressed)."""
    token = _METER.set(tell)
    try:
        yield
    finally:
        _METER.reset(token)


def tell_share(path: Path, done: int, total: int) -> None:
    """Tell the meter, if there is one, that a share of a file was read that is not read from its start to its end."""
    if (tell := _METER.get()) is not None and total:
        tell(path.stat().st_size * done / total)


class _Counted(io.RawIOBase):
    """A file that tells how far it was read."""

    def __init__(self, file: Any, tell: Callable[[float], None]) -> None:
        self._file, self._tell, self._done = file, tell, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._done += count
        self._tell(self._done)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def open_bytes(path: Path) -> BinaryIO:
    """Return the file's bytes, decompressed. Raises DataError if it cannot be read."""
    try:
        raw = cast(Any, path.open("rb"))
        if (tell := _METER.get()) is not None:
            raw = io.BufferedReader(_Counted(raw, tell), LINE_BYTES)
        if path.suffix.lower() == ".gz":
            unpacked: Any = gzip.GzipFile(fileobj=raw, mode="rb")
            unpacked.myfileobj = raw  # closed with it
            return cast(BinaryIO, unpacked)
        if path.suffix.lower() == ".zst":
            import pyarrow as pa

            stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
            return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream)))
        return cast(BinaryIO, raw)
    except PermissionError:
        raise DataError(f"no permission to read: {path}") from None
    except OSError as problem:
        raise DataError(f"cannot read: {path} ({problem})") from problem


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text with its line end as `\\n`); a line over 1 MiB comes in several pieces.

    Raises DataError naming the line for bytes that are not UTF-8, and the file if it is not text at all.
    """
    with open_bytes(path) as file:
        number, rest, first = 1, b"", True
        while raw := _readline(file, path):
            if first:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
                refuse_binary(path, raw)
            first = False
            piece, rest = _split_unfinished(rest + raw)
            yield number, decode(piece, path, number)
            number += raw.endswith(b"\n")
        if rest:
            yield number, decode(rest, path, number)


def read_text(path: Path) -> str:
    """Return the whole file as text with `\\n` line ends. Raises DataError like `lines`."""
    return "".join(text for _, text in lines(path))


def _readline(file: BinaryIO, path: Path) -> bytes:
    try:
        return file.readline(LINE_BYTES)
    except (OSError, EOFError) as problem:
        raise DataError(f"cannot read: {path} ({problem})", hint="the file may be cut short or damaged") from problem


def _split_unfinished(raw: bytes) -> tuple[bytes, bytes]:
    """Split off a last character, or a carriage return, that a piece of a long line has only begun."""
    if raw.endswith(b"\n"):
        return raw, b""
    if raw.endswith(b"\r"):
        return raw[:-1], b"\r"
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte & 0xC0 != 0x80:  # the start of the last character
            wanted = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return (raw[:-back], raw[-back:]) if back < wanted else (raw, b"")
    return raw, b""


def decode(raw: bytes, path: Path, number: int) -> str:
    """Return one line as text. Raises DataError naming file and line."""
    if b"\0" in raw:
        raise DataError(f"binary data in text: {path}:{number} (a zero byte)")
    try:
        text = raw.decode()
    except UnicodeDecodeError as problem:
        raise DataError(
            f"not UTF-8: {path}:{number} (byte 0x{raw[problem.start]:02x} at column {problem.start + 1})",
            hint=f"if it is an older encoding, convert it: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > fixed.txt",
        ) from None
    return text.replace("\r\n", "\n")


def refuse_binary(path: Path, start: bytes) -> None:
    """Raise DataError if the first bytes of a file show that it is not text."""
    for signature, what in _SIGNATURES.items():
        if start.startswith(signature):
            raise DataError(f"not a text file: {path} (it looks like {what})")
    if b"\0" in start:
        raise DataError(f"not a text file: {path} (it is binary)")
