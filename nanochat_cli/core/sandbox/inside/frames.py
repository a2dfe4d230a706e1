"""Messages between processes that do not trust each other: a length, then JSON that only plain values come out of."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_BYTES = 16 << 20
"""A longer message is refused by whoever reads it."""


class Closed(Exception):
    """The other side is gone, or said something that is no message."""


def pack(message: Any) -> bytes:
    """Return a message as it travels."""
    body = json.dumps(message).encode()
    return len(body).to_bytes(4, "little") + body


def send(channel: int, message: Any) -> None:
    """Write a message to a descriptor. Raises Closed."""
    data = memoryview(pack(message))
    try:
        while data:
            data = data[os.write(channel, data) :]
    except OSError as problem:
        raise Closed from problem


def receive(channel: int) -> Any:
    """Read the next message from a descriptor. Raises Closed."""
    size = int.from_bytes(_exactly(channel, 4), "little")
    if size > MAX_BYTES:
        raise Closed
    try:
        return json.loads(_exactly(channel, size))
    except (ValueError, RecursionError) as problem:
        raise Closed from problem


def _exactly(channel: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            piece = os.read(channel, min(size - len(data), 1 << 20))
        except OSError as problem:
            raise Closed from problem
        if not piece:
            raise Closed
        data += piece
    return bytes(data)


def encode(value: Any) -> Any:
    """Return JSON for a built-in value, a number of the standard library or a container of such.

    Instances of subclasses travel as their base: what arrives never brings methods of its own. Raises TypeError.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return _plain(value)
    if isinstance(value, list):
        return [encode(item) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in dict.items(value)]}
    kinds: tuple[Any, ...] = (tuple, set, frozenset)
    for kind in kinds:
        if isinstance(value, kind):
            return {kind.__name__: [encode(item) for item in kind.__iter__(value)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes" if isinstance(value, bytes) else "bytearray": bytes(value).hex()}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    raise TypeError(f"cannot be passed between processes: {type(value).__name__}")


def _plain(value: Any) -> Any:
    for kind in (int, float, str):
        if isinstance(value, kind) and type(value) not in (kind, bool):
            return getattr(kind, "__str__" if kind is str else f"__{kind.__name__}__")(value)
    return value


def decode(value: Any) -> Any:
    """Return the value that `encode` was given, made of built-in types. Raises TypeError or ValueError."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("not a value")
    [(kind, body)] = value.items()
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decode(item) for item in body)
    if kind in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[kind].fromhex(body)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in body}
    makers = {"range": range, "complex": complex, "fraction": Fraction}
    if kind in makers:
        return makers[kind](*body)
    if kind == "decimal":
        return Decimal(str(body))
    raise ValueError(f"not a value: {kind}")
