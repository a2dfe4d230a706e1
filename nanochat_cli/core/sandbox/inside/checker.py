"""The process of the tests: they call the program's functions, which run elsewhere and answer with plain values.

The program cannot reach this process. So it cannot make a comparison true, end the tests early, or learn the nonce
that is written after the last of them; a program that ends itself only leaves its caller without an answer.
"""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable
from typing import Any

from nanochat_cli.core.sandbox.inside.candidate import SHOWN
from nanochat_cli.core.sandbox.inside.frames import Closed, decode, encode, receive, send


class ProgramError(Exception):
    """The program raised something that is not an ordinary built-in exception, or did not answer."""


def check(channel: int, control: int, verdict: int) -> None:
    """Read one job from `control`, put the program through its tests, and write to `verdict` how it went.

    What is written: `{"nonce": …}` after the last test, `{"failed": [kind, text], "in": "program" | "tests"}`, or
    `{"lacks": reason}` if the program's process could not be locked up.
    """
    ready = receive(channel)  # written before the program is read, so nothing of the program's making
    if "lacks" in ready:
        send(verdict, ready)
        return
    job = receive(control)
    stage = "program"
    try:
        _ask(channel, {"name": "program", "program": job["program"]})
        if job["entry"] is not None and not _ask(channel, {"has": job["entry"]}):
            raise NameError(f"name {job['entry']!r} is not defined")
        stage = "tests"
        _run_tests(channel, job)
    except BaseException as problem:
        send(verdict, {"failed": [type(problem).__name__, str(problem)[:SHOWN]], "in": stage})
        return
    send(verdict, {"nonce": job["nonce"]})


def _run_tests(channel: int, job: dict[str, Any]) -> None:
    space: dict[str, Any] = {"__name__": "tests"}
    exec(compile(job["prelude"], "<prelude>", "exec", dont_inherit=True), space)  # noqa: S102 - of the data set
    code = compile(job["tests"], "<tests>", "exec", dont_inherit=True)
    used = _names(code) - set(dir(builtins)) - set(space)
    for name in used | ({job["entry"]} if job["entry"] else set()):
        space[name] = _remote(channel, name)
    exec(code, space)  # noqa: S102 - the tests come from the data set, not from the model


def _names(code: types.CodeType) -> set[str]:
    """Names that the tests mention: one that they define themselves replaces the program's function of that name."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return {name for name in code.co_names if name.isidentifier()}.union(*inner)


def _remote(channel: int, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return decode(_ask(channel, {"call": name, "args": encode(args), "kwargs": encode(kwargs)}))

    call.__name__ = name
    return call


def _ask(channel: int, order: dict[str, Any]) -> Any:
    try:
        send(channel, order)
        answer = receive(channel)
    except Closed:
        raise ProgramError("the program ended itself or was stopped") from None
    if not isinstance(answer, dict) or answer.keys() not in ({"value"}, {"error"}):
        raise ProgramError("the program answered out of turn")
    if "value" in answer:
        return answer["value"]
    raise _rebuilt(answer["error"])


def _rebuilt(error: Any) -> Exception:
    """The program's exception, as the same built-in class where that is an ordinary one."""
    kind, text = (str(error[0]), str(error[1])) if isinstance(error, list) and len(error) == 2 else ("", "no error")
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, UnicodeError):
        return found(text[:SHOWN])
    return ProgramError(f"{kind}: {text}"[:SHOWN])
