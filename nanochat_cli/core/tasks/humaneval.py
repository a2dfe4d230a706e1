"""HumanEval: a Python function to write from its signature and docstring, put through the data set's tests.

Source: Chen et al., "Evaluating Large Language Models Trained on Code", 2021, arXiv:2107.03374.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nanochat_cli.core.data import downloaded, jsonfile, sources
from nanochat_cli.core.errors import DataError
from nanochat_cli.core.sandbox.limits import Job, Mode, Outcome
from nanochat_cli.core.sandbox.pool import Sandbox, shared
from nanochat_cli.core.tasks.base import Task
from nanochat_cli.core.tokenizer.conversation import Conversation

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?P<label>\w*)[^\n]*\n(?P<body>.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_LABELS = ("", "python", "python3", "py")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One row of the data set."""

    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


class HumanEval(Task):
    """All problems are for testing; a reply passes if its program passes the problem's tests in the sandbox."""

    splits: ClassVar[tuple[str, ...]] = ("test",)
    held_out: ClassVar[tuple[str, ...]] = ("test",)
    max_reply_tokens: ClassVar[int] = 512
    sandbox_mode: Mode = "auto"
    """What the code of replies runs in; set it before the first reply is graded."""

    def __init__(
        self, *, split: str = "test", size: int | None = None, seed: int = 0, path: Path | None = None
    ) -> None:
        """Open the downloaded problems, or those of a file. Raises MissingArtifact, DataError, ConfigError."""
        super().__init__(split=split, size=size, seed=seed)
        self.problems = problems(path or downloaded.folder_of(sources.get("humaneval")))[:size]
        self._by_prompt = {problem.prompt: problem for problem in self.problems}

    @classmethod
    def suits(cls, source: Mapping[str, Any]) -> bool:
        return source.get("generator") != "tinyworld" and downloaded.is_complete(sources.get("humaneval"))

    def __len__(self) -> int:
        return len(self.problems)

    def example(self, i: int) -> Conversation:
        problem = self.problems[i]
        return Conversation.turn(user=problem.prompt, assistant=problem.prompt + problem.canonical_solution)

    def grade(self, conversation: Conversation, reply: str) -> bool:
        return self.judge(conversation, reply).passed

    def grade_all(self, asked: Sequence[tuple[Conversation, str]]) -> list[bool]:
        """Grades of many replies, as many at a time as there are cores."""
        jobs = [job(self._problem(conversation), reply) for conversation, reply in asked]
        return [outcome.passed for outcome in self.sandbox.check_all(jobs)]

    def notes(self) -> dict[str, Any]:
        return {"sandbox": self.sandbox.tier}

    def judge(self, conversation: Conversation, reply: str) -> Outcome:
        """How the program of a reply fared. Raises EnvironmentLacks where no sandbox holds."""
        return self.sandbox.check(job(self._problem(conversation), reply))

    @property
    def sandbox(self) -> Sandbox:
        """What the code runs in; its `tier` belongs beside the score. Raises EnvironmentLacks."""
        return shared(self.sandbox_mode)

    def _problem(self, conversation: Conversation) -> Problem:
        prompt = next(m.text for m in reversed(conversation.messages) if m.role == "user")
        if prompt not in self._by_prompt:
            raise DataError(f"not a question of this task: {prompt[:60]!r}")
        return self._by_prompt[prompt]


def problems(path: Path) -> list[Problem]:
    """The problems in a file, or in the only data file of a folder: Parquet or JSON lines. Raises DataError."""
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix == ".parquet" or ".jsonl" in p.suffixes)
        if len(found) != 1:
            raise DataError(f"expected one file of problems: {path} (it has {len(found)})")
        path = found[0]
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows: list[Any] = pq.read_table(path).to_pylist()
    else:
        rows = [value for _, value in jsonfile.values(path)]
    names = tuple(Problem.__dataclass_fields__)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
            raise DataError(f"a problem needs {', '.join(names)}: {path}:{number}")
    return [Problem(**{name: row[name] for name in names}) for row in rows]


def job(problem: Problem, reply: str) -> Job:
    """What the sandbox is to run: the imports of the prompt and the code of the reply, under the problem's tests."""
    return Job(
        program=f"{imports_of(problem.prompt)}\n{code_of(reply)}",
        tests=f"{problem.test}\ncheck({problem.entry_point})\n",
        prelude=_prelude(problem.prompt),
        entry=problem.entry_point,
    )


def code_of(reply: str) -> str:
    """The first Python code block of a reply, up to the end if it is never closed; all of it if there is none."""
    for fence in _FENCE.finditer(reply):
        if fence["label"].lower() in _LABELS:
            return fence["body"]
    return reply


def imports_of(prompt: str) -> str:
    """The import lines that a prompt begins with."""
    kept = []
    for line in prompt.splitlines():
        words = line.strip()
        if words.startswith(("import ", "from ")):
            kept.append(words)
        elif words and not words.startswith("#"):
            break
    return "\n".join(kept)


def _prelude(prompt: str) -> str:
    """The prompt as a program: its helper functions, which some tests use, and a function that does nothing yet.

    So the tests rely on the data set's helpers, not on what a reply may have made of them.
    """
    for program in (prompt, f"{prompt}\n    pass\n"):
        try:
            ast.parse(program)
        except SyntaxError:
            continue
        return program
    return imports_of(prompt)


TASK = HumanEval
