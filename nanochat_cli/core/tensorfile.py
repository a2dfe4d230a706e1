"""Writing tensors in the safetensors format, piece by piece and hashed on the way.

The library's own writer holds Python's lock until a file is done, which would stop the training that goes on beside it,
and tells no hash. Reading is left to the library. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PIECE = 8 << 20
"""Bytes per write: large enough to be cheap, small enough to let other threads in."""

Allowed = Callable[[int, int], int]
"""Bytes already written and bytes to come: how many of the latter may be written now. May raise OSError."""


@dataclass(frozen=True)
class Written:
    """A file that is on the disk."""

    size: int
    sha256: str


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    allowed: Allowed = lambda _, coming: coming,
) -> Written:
    """Write tensors, which lie on the CPU, to a new file and flush it to the disk. Raises OSError.

    Equal contents make equal files: wider types come first, then names in order.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for content in (_head(ordered, metadata), *(_bytes(tensor) for _, tensor in ordered)):
            at = 0
            while at < len(content):
                count = os.write(handle, content[at : at + allowed(size, min(_PIECE, len(content) - at))])
                digest.update(content[at : at + count])
                at, size = at + count, size + count
        os.fsync(handle)
    finally:
        os.close(handle)
    return Written(size, digest.hexdigest())


def _head(ordered: list[tuple[str, Tensor]], metadata: Mapping[str, str] | None) -> memoryview:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    at = 0
    for name, tensor in ordered:
        end = at + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor without a copy (unless it is not contiguous)."""
    flat = tensor.detach().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")
