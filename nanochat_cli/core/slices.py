"""Tensors of which each process holds a part: written by all of them, put together by any number.

A slice is a range of a logical tensor's elements in their flat order. A file says of each slice which tensor it is part
of, of what shape, and where it begins, so that reading needs to know nothing of the processes that wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_cli.core.errors import DamagedArtifact

_KEY = "slices"


@dataclass(frozen=True)
class Slice:
    """Elements [offset, offset + tensor.numel()) of the tensor `name`, whose whole shape is `shape`."""

    name: str
    tensor: Tensor
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def key(self) -> str:
        """The name in a file, in which there may be several slices of one tensor."""
        return f"{self.name}@{self.offset}"


def whole(tensors: Mapping[str, Tensor]) -> list[Slice]:
    """Return tensors as slices that are all of them."""
    return [Slice(name, tensor, tuple(tensor.shape)) for name, tensor in tensors.items()]


def for_file(parts: Iterable[Slice]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata to write for some slices; whole ones go by their own name, in their shape."""
    tensors: dict[str, Tensor] = {}
    places: dict[str, tuple[str, list[int], int]] = {}
    for part in parts:
        if part.tensor.numel() == math.prod(part.shape):
            tensors[part.name] = part.tensor.reshape(part.shape)
        else:
            tensors[part.key] = part.tensor.reshape(-1)
            places[part.key] = (part.name, list(part.shape), part.offset)
    return tensors, {_KEY: json.dumps(places)} if places else {}


def assembled(files: Iterable[tuple[Mapping[str, Tensor], Mapping[str, str]]], what: str) -> dict[str, Tensor]:
    """Return the whole tensors that files, given as tensors and metadata, hold together.

    Raises DamagedArtifact, naming `what`, if parts are missing or do not fit.
    """
    found: dict[str, Tensor] = {}
    missing: dict[str, int] = {}
    for tensors, metadata in files:
        places = _places(metadata, what)
        for key, tensor in tensors.items():
            if key not in places:
                found[key] = tensor
                continue
            name, shape, offset = places[key]
            if name not in found:
                found[name] = torch.empty(shape, dtype=tensor.dtype)
                missing[name] = found[name].numel()
            target = found[name].view(-1)
            if list(found[name].shape) != shape or not 0 <= offset <= target.numel() - tensor.numel():
                raise DamagedArtifact(f"parts of {name} do not fit together: {what}")
            target[offset : offset + tensor.numel()] = tensor.reshape(-1)
            missing[name] -= tensor.numel()
    if short := [name for name, count in missing.items() if count]:
        raise DamagedArtifact(f"a part of {short[0]} is missing: {what}")
    return found


def _places(metadata: Mapping[str, str], what: str) -> dict[str, tuple[str, list[int], int]]:
    try:
        places = json.loads(metadata.get(_KEY, "{}"))
        return {key: (str(name), [int(n) for n in shape], int(offset)) for key, (name, shape, offset) in places.items()}
    except (ValueError, TypeError, AttributeError) as problem:
        raise DamagedArtifact(f"a file of tensors does not say what it is part of: {what}") from problem
