"""The process of the untrusted program: loads it, then calls its functions when the checker asks.

Nothing here is a secret and nothing here decides: whatever the program does to this process, all it can say to the
checker is a value.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import types
from typing import Any

from nanochat_cli.core.sandbox.inside.frames import Closed, decode, encode, receive, send

SHOWN = 2000
"""Characters of an error's text that are passed on."""


def serve(channel: int) -> None:
    """Say that all is ready, load the program that comes first, then answer calls until the channel closes."""
    with contextlib.suppress(Closed):
        send(channel, {"ready": True})
        order = receive(channel)
        module = types.ModuleType(order["name"])
        sys.modules[module.__name__] = module
        send(channel, _attempt(lambda: _load(module, order["program"])))
        while True:
            order = receive(channel)
            send(channel, _attempt(lambda order=order: _answer(module, order)))


def _load(module: types.ModuleType, program: str) -> None:
    linecache.cache["<program>"] = (len(program), None, program.splitlines(keepends=True), "<program>")
    code = compile(program, "<program>", "exec", dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102 - this process exists to run it, and has nothing left to lose


def _answer(module: types.ModuleType, order: dict[str, Any]) -> Any:
    if "has" in order:
        return callable(getattr(module, order["has"], None))
    function = getattr(module, order["call"], None)
    if function is None:
        raise NameError(f"name {order['call']!r} is not defined")
    return encode(function(*decode(order["args"]), **decode(order["kwargs"])))


def _attempt(action: Any) -> dict[str, Any]:
    try:
        answer = {"value": action()}
    except BaseException as problem:
        answer = {"error": [type(problem).__name__, str(problem)[:SHOWN]]}
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return answer
