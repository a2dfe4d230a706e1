"""The token shard file: a fixed header, the tokens of many documents, and where each document begins.

Layout, little-endian: a 128-byte header (see `_HEADER`), then `num_tokens` tokens of 2 or 4 bytes, zero bytes up to a
multiple of 8, then `num_docs + 1` int64 offsets. The SHA-256 covers everything but its own 32 bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nanochat_cli.core.errors import DamagedArtifact

MAGIC = b"NCTOKENS"
VERSION = 1
# magic, version, bytes per token, documents, tokens, tokenizer hash, SHA-256, then zeros up to 128 bytes
_HEADER = struct.Struct("<8sIIQQ32s32s32x")
_CHUNK = 8 << 20


@dataclass(frozen=True)
class Header:
    """What a token shard says about itself; hashes are hex."""

    itemsize: int
    num_docs: int
    num_tokens: int
    tokenizer_hash: str
    sha256: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one token on disk."""
        return np.dtype("<u2" if self.itemsize == 2 else "<u4")

    @property
    def offsets_at(self) -> int:
        """Byte position of the document offsets."""
        return -(-(_HEADER.size + self.num_tokens * self.itemsize) // 8) * 8

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.offsets_at + (self.num_docs + 1) * 8

    def pack(self, with_sha256: bool = True) -> bytes:
        """Return the header as bytes, with zeros in place of the SHA-256 while that is being computed."""
        sha = bytes.fromhex(self.sha256) if with_sha256 else bytes(32)
        counts = (self.itemsize, self.num_docs, self.num_tokens)
        return _HEADER.pack(MAGIC, VERSION, *counts, bytes.fromhex(self.tokenizer_hash), sha)


class TokenFileWriter:
    """Streams documents into one token shard; `close` completes the header."""

    def __init__(self, path: Path, itemsize: int, tokenizer_hash: str) -> None:
        self._file: BinaryIO = path.open("wb")
        self._path = path
        self._file.write(bytes(_HEADER.size))
        self._dtype = Header(itemsize, 0, 0, tokenizer_hash, "").dtype
        self._tokenizer_hash = tokenizer_hash
        self._lengths: list[np.ndarray] = []
        self.num_tokens = self.num_docs = 0

    def add(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Append documents: their tokens one after another, and the length of each."""
        self._file.write(np.ascontiguousarray(tokens, self._dtype).data)
        self._lengths.append(lengths.astype(np.int64))
        self.num_tokens += len(tokens)
        self.num_docs += len(lengths)

    def close(self) -> Header:
        """Write the offsets and the header; return the header."""
        header = Header(self._dtype.itemsize, self.num_docs, self.num_tokens, self._tokenizer_hash, "0" * 64)
        self._file.write(bytes(header.offsets_at - self._file.tell()))
        offsets = np.zeros(self.num_docs + 1, dtype="<i8")
        if self._lengths:
            np.cumsum(np.concatenate(self._lengths), out=offsets[1:])
        self._file.write(offsets.tobytes())
        self._file.seek(0)
        self._file.write(header.pack(with_sha256=False))
        self._file.close()
        header = Header(*counts_of(header), content_sha256(self._path, header))
        with self._path.open("rb+") as file:
            file.write(header.pack())
        return header

    def abandon(self) -> None:
        """Let go of the file after an error."""
        self._file.close()


def counts_of(header: Header) -> tuple[int, int, int, str]:
    """Return the fields of a header other than its SHA-256."""
    return header.itemsize, header.num_docs, header.num_tokens, header.tokenizer_hash


def read_header(path: Path) -> Header:
    """Return the header of a token shard. Raises DamagedArtifact if it or the file's size is wrong."""
    try:
        with path.open("rb") as file:
            raw = file.read(_HEADER.size)
        size = path.stat().st_size
    except OSError as problem:
        raise DamagedArtifact(f"cannot read token shard: {path} ({problem.strerror})") from problem
    if len(raw) < _HEADER.size or raw[:8] != MAGIC:
        raise DamagedArtifact(f"damaged token shard, its header is not ours: {path}")
    _, version, itemsize, num_docs, num_tokens, tokenizer_hash, sha256 = _HEADER.unpack(raw)
    if version != VERSION or itemsize not in (2, 4):
        raise DamagedArtifact(f"token shard of unknown version {version}: {path}")
    header = Header(itemsize, num_docs, num_tokens, tokenizer_hash.hex(), sha256.hex())
    if size != header.file_bytes:
        raise DamagedArtifact(f"damaged token shard, {size} bytes instead of {header.file_bytes}: {path}")
    return header


def content_sha256(path: Path, header: Header) -> str:
    """Return the SHA-256, in hex, of a token shard as it is on disk, with zeros in place of the stored one."""
    digest = hashlib.sha256(header.pack(with_sha256=False))
    for chunk in _after_header(path):
        digest.update(chunk)
    return digest.hexdigest()


def _after_header(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(_HEADER.size)
        while chunk := file.read(_CHUNK):
            yield chunk


def verify(path: Path) -> Header:
    """Return the header after rehashing the content. Raises DamagedArtifact naming the file."""
    header = read_header(path)
    if content_sha256(path, header) != header.sha256:
        raise DamagedArtifact(f"damaged token shard, its SHA-256 differs: {path}")
    return header


def open_arrays(path: Path, header: Header) -> tuple[np.ndarray, np.ndarray]:
    """Return (tokens, offsets) of a shard as read-only memory maps."""
    if header.num_tokens == 0:
        tokens = np.zeros(0, header.dtype)
    else:
        tokens = np.memmap(path, header.dtype, "r", _HEADER.size, (header.num_tokens,))
    return tokens, np.memmap(path, "<i8", "r", header.offsets_at, (header.num_docs + 1,))
