"""HumanEval: references pass, broken ones do not, and the sandbox judges mutants as a plain interpreter does."""

import ast
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nanochat_cli.core.errors import DataError, EnvironmentLacks, MissingArtifact
from nanochat_cli.core.sandbox import tiers
from nanochat_cli.core.sandbox.limits import Job
from nanochat_cli.core.tasks.base import open_task
from nanochat_cli.core.tasks.humaneval import HumanEval, Problem, code_of, imports_of, job, problems

ROWS = [
    {
        "prompt": 'import math\nfrom typing import List\n\n\ndef area(r: float) -> float:\n    """ Area. """\n',
        "entry_point": "area",
        "canonical_solution": "    return math.pi * r * r\n",
        "test": "def check(candidate):\n    assert abs(candidate(1) - 3.14159) < 1e-3\n",
    },
    {
        "prompt": 'def twice(x):\n    return 2 * x\n\n\ndef halve(x):\n    """ Undo twice. """\n',
        "entry_point": "halve",
        "canonical_solution": "    return x / 2\n",
        "test": "def check(candidate):\n    for i in range(9):\n        assert candidate(twice(i)) == i\n",
    },
]


@pytest.fixture
def few(tmp_path: Path) -> HumanEval:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return HumanEval(path=path)


@pytest.fixture
def real(real_data: Path) -> HumanEval:
    path = real_data / "humaneval" / "HumanEval.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"not there: {path}")
    return HumanEval(path=path)


@pytest.fixture(autouse=True)
def sandboxed() -> None:
    try:
        tiers.find("auto")
    except EnvironmentLacks as problem:
        pytest.skip(str(problem))


def test_replies(few: HumanEval) -> None:
    first, second = few.example(0), few.example(1)
    for conversation in (first, second):
        assert few.grade(conversation, conversation.messages[-1].text)
        assert few.reward(conversation, conversation.messages[-1].text) == 1.0
    right = "def area(r):\n    return math.pi * r ** 2"
    replies = {
        right: True,  # the prompt's imports are there
        f"Here you are:\n```python\n{right}\n```\nand a wrong one\n```python\ndef area(r): pass\n```": True,
        f"```\n{right}\n```": True,
        f"```python\n{right}": True,
        f"```text\nit is easy\n```\n```py\n{right}\n```": True,
        f"```python\ndef area(r): pass\n```\n```python\n{right}\n```": False,
        "def area(r):\n    pass": False,
        "def area(r):\n    return 3": False,
        "Sure! " + right: False,
        "": False,
    }
    assert few.grade_all([(first, reply) for reply in replies]) == list(replies.values())
    # The data set's helper decides, whatever a reply makes of it.
    assert not few.grade(second, "def twice(x): return 0\ndef halve(x): return 0")
    assert few.grade(second, "def halve(x): return x // 2")
    assert few.judge(second, "def halve(x): return 1").reason == "failed"
    assert few.notes() == {"sandbox": few.sandbox.tier}


def test_reading(few: HumanEval, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data" / "test.parquet")
    assert problems(tmp_path / "data") == few.problems
    assert len(HumanEval(path=tmp_path / "data", size=1)) == 1
    with pytest.raises(DataError, match="expected one file"):
        problems(tmp_path)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "x"}\n')
    with pytest.raises(DataError, match="a problem needs"):
        problems(broken)
    with pytest.raises(DataError, match="not a question"):
        few.grade(HumanEval(path=tmp_path / "data", size=1).example(0).turn(user="?", assistant=""), "")


def test_without_data_it_says_what_to_run() -> None:
    with pytest.raises(MissingArtifact) as caught:
        open_task("humaneval")
    assert caught.value.hint == "nanochat data download humaneval"
    assert not HumanEval.suits({"name": "mine"})  # so an evaluation of all that fits passes it over


def test_parts_of_a_program() -> None:
    assert imports_of("\n# a\nimport math\nfrom typing import List\n\ndef f():\n    import os\n") == (
        "import math\nfrom typing import List"
    )
    assert imports_of("def f(): pass\nimport os") == ""
    assert code_of("no fence") == "no fence"
    assert code_of("a\n```Python\nx = 1\n```") == "x = 1\n"


def reasons(task: HumanEval, programs: list[tuple[Problem, str]]) -> list[str]:
    return [outcome.reason for outcome in task.sandbox.check_all([job(*each) for each in programs])]


def mutants(problem: Problem) -> dict[str, str]:
    """Broken versions of a reference: nothing done, every result wrapped, one constant off, one comparison turned."""
    source = problem.prompt + problem.canonical_solution
    made = {"pass": f"{problem.prompt}\n    pass\n"}
    for name, change in (("wrapped", _wrap), ("constant", _shift), ("comparison", _turn)):
        tree = ast.parse(source)
        function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == problem.entry_point)
        if change(function):
            made[name] = ast.unparse(ast.fix_missing_locations(tree))
    return made


def _wrap(function: ast.FunctionDef) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Return):
            node.value = ast.Tuple([node.value or ast.Constant(None), ast.Constant("wrong")], ast.Load())
    return True


def _shift(function: ast.FunctionDef) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
            return True
    return False


def _turn(function: ast.FunctionDef) -> bool:
    turned = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in turned:
            node.ops[0] = turned[type(node.ops[0])]()
            return True
    return False


def test_some_references_pass_and_their_mutants_do_not(real: HumanEval) -> None:
    some = [*real.problems[::8], real.problems[32], real.problems[38], real.problems[50]]  # the last rely on helpers
    assert reasons(real, [(p, p.prompt + p.canonical_solution) for p in some]) == ["passed"] * len(some)
    for kind in ("pass", "wrapped"):
        assert "passed" not in reasons(real, [(p, mutants(p)[kind]) for p in some])


@pytest.mark.slow
def test_all_references_pass_and_mutants_are_judged_as_by_plain_python(real: HumanEval) -> None:
    right = reasons(real, [(p, p.prompt + p.canonical_solution) for p in real.problems])
    assert right == ["passed"] * 164
    made = [(p, kind, program) for p in real.problems for kind, program in mutants(p).items()]
    found = [reason == "passed" for reason in reasons(real, [(p, program) for p, _, program in made])]
    with ThreadPoolExecutor(2) as threads:
        plain = list(threads.map(lambda each: _plainly(job(each[0], each[2])), made))
    assert found == plain
    assert not any(passed for passed, (_, kind, _) in zip(found, made, strict=True) if kind in ("pass", "wrapped"))
    assert sum(found) < 0.1 * len(made)  # survivors are equivalent, or the data set has no test for them


def _plainly(what: Job) -> bool:
    """Whether program and tests together run to their last line, in an ordinary interpreter."""
    program = f"{what.prelude}\n{what.program}\n{what.tests}\nprint('all of them')\n"
    try:
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and done.stdout.endswith("all of them\n")
