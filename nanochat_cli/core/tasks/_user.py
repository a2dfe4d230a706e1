"""Rewards from a user's own file: `FILE.py:NAME` or `package.module:NAME`.

NAME is a `Task` class, or a function `reward(question, reply) -> float`, which may also ask for `reference`. The file
is imported, which runs it with all rights of the user: that is the purpose. Nothing is imported that was not named.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanochat_cli.core.errors import ConfigError, MissingArtifact
from nanochat_cli.core.tasks.base import Task
from nanochat_cli.core.tokenizer.conversation import Conversation

RIGHT_FROM = 0.5
"""Reward from which an answer counts as right, where a function is all that is known."""


def is_user_task(name: str) -> bool:
    """Return whether the name of a task means a user's own."""
    return ":" in name


def load(name: str) -> Any:
    """Return what `FILE.py:NAME` or `module:NAME` means: a Task class or a function.

    Raises MissingArtifact or ConfigError, with what the file itself raised on import.
    """
    where, _, attribute = name.rpartition(":")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_path(where)
    found = getattr(module, attribute, None)
    if found is None:
        raise ConfigError(f"{where} has nothing of this name: {attribute}")
    if not callable(found) or (isinstance(found, type) and not issubclass(found, Task)):
        raise ConfigError(f"neither a function nor a Task class: {name}")
    return found


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise MissingArtifact(f"no such file: {path}", hint="--task FILE.py:FUNCTION")
    name = f"nanochat_user_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be imported: {type(problem).__name__}: {problem}") from problem
    return module


def _from_path(where: str) -> Any:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as problem:
        if problem.name is not None and (where == problem.name or where.startswith(f"{problem.name}.")):
            raise MissingArtifact(f"no such module: {where}", hint="a file is named as FILE.py:FUNCTION") from None
        raise ConfigError(f"{where} cannot be imported: {problem}") from problem
    except Exception as problem:
        raise ConfigError(f"{where} cannot be imported: {type(problem).__name__}: {problem}") from problem


class FunctionTask(Task):
    """Questions from elsewhere, graded by a user's function. All of them are for training."""

    splits = ("train",)
    held_out = ("train",)
    max_reply_tokens = 1 << 30

    def __init__(self, name: str, function: Callable[..., Any], conversations: Sequence[Conversation]) -> None:
        super().__init__(split="train")
        self._name, self._function, self._conversations = name, function, conversations
        self._takes_reference = _takes_reference(function, name)
        if not conversations:
            raise ConfigError(f"there are no questions for: {name}", hint="name a file of them: --questions FILE")

    @property
    def name(self) -> str:
        return self._name

    def __len__(self) -> int:
        return len(self._conversations)

    def example(self, i: int) -> Conversation:
        return self._conversations[i]

    def reward(self, conversation: Conversation, reply: str) -> float:
        """What the function returns, unchecked."""
        question = next(m.text for m in reversed(conversation.messages) if m.role == "user")
        if not self._takes_reference:
            return self._function(question, reply)
        last = conversation.messages[-1]
        return self._function(question, reply, reference=last.text if last.role == "assistant" else None)

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return self.reward(conversation, reply) >= RIGHT_FROM


def _takes_reference(function: Callable[..., Any], name: str) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: taken at its word
        return False
    takes = "reference" in signature.parameters
    try:
        signature.bind("question", "reply", **({"reference": None} if takes else {}))
    except TypeError as problem:
        raise ConfigError(f"{name} cannot be called as reward(question, reply): {problem}") from None
    return takes
