"""The sandbox from its user's side: outcomes, values that travel, threads, end of processes, tiers."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core.errors import ConfigError, EnvironmentLacks
from nanochat_cli.core.sandbox import container, tiers, worker
from nanochat_cli.core.sandbox.inside import BARE, LANDLOCK, SECCOMP, frames, lockdown, syscalls
from nanochat_cli.core.sandbox.limits import Job, Limits
from nanochat_cli.core.sandbox.pool import Sandbox
from nanochat_cli.core.sandbox.worker import Collected, Worker, judge

needs_seccomp = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
VALUES: list[Any] = [
    None, True, 0, -(10**50), 1.5, float("inf"), "a\nü\U0001f600\ud800", [], [[1], "x"], (), (1, (2,)), {1, 2},
    frozenset({"a"}), {}, {"a": 1, (1, 2): [None], 3: {"dict": []}}, b"\x00\xff", bytearray(b"a"), range(1, 9, 2),
    1 + 2j, Fraction(1, 3), Decimal("1.10"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_travel_unchanged(value: Any) -> None:
    back = frames.decode(json.loads(json.dumps(frames.encode(value))))
    assert back == value and type(back) is type(value)


def test_values_of_own_classes_lose_them_or_do_not_travel() -> None:
    class Name(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    assert type(frames.decode(frames.encode(Name("a")))) is str
    for value in (object(), print, iter([])):
        with pytest.raises(TypeError):
            frames.encode(value)
    for wrong in ({"exec": "x"}, {}, {"tuple": [], "set": []}, {"decimal": "x"}):
        with pytest.raises((ValueError, ArithmeticError)):
            frames.decode(wrong)


def test_arguments_results_output_and_errors(sandbox: Sandbox) -> None:
    program = """
        def f(x, *, y=1):
            print('called with', x)
            if x is None: raise ValueError('none given')
            return {'x': x, 'y': (y, {1})}
        def g(): return f(3)
        """
    tests = """
        assert f([1, (2,)], y=2) == {'x': [1, (2,)], 'y': (2, {1})}
        assert g()['x'] == 3
        try:
            f(None)
        except ValueError as problem:
            assert str(problem) == 'none given'
        else:
            assert False
        """
    outcome = sandbox.check(Job(program=textwrap.dedent(program), tests=textwrap.dedent(tests), entry="f"))
    assert outcome.passed and outcome.output == "called with [1, (2,)]\ncalled with 3\ncalled with None\n"
    assert outcome.tier == sandbox.tier != BARE and sandbox.warning is None


def test_why_it_did_not_pass(sandbox: Sandbox) -> None:
    def why(program: str, tests: str = "assert f(1) == 2, 'two'", prelude: str = "") -> tuple[str, str]:
        outcome = sandbox.check(Job(program=program, tests=tests, prelude=prelude, entry="f"))
        return outcome.reason, outcome.detail

    assert why("def f(x): return 1") == ("failed", "AssertionError: two")
    assert why("def f(x): return 1 / 0") == ("error", "ZeroDivisionError: division by zero")
    assert why("assert False")[0] == "error"
    assert why("def g(x): return 2") == ("error", "NameError: name 'f' is not defined")
    assert why("def f(x): return print")[1] == (
        "TypeError: cannot be passed between processes: builtin_function_or_method"
    )
    assert why("import os\ndef f(x): os.abort()")[0] == "ended"
    assert why("def f(x): return 2", "raise SystemExit(0)") == ("error", "SystemExit: 0")
    # Helpers of the data set win over the program's of that name.
    assert why("def f(x): return 1\ndef h(x): return 2", "assert h(f(1)) == 2", "def h(x): return x")[0] == "failed"


def test_the_same_program_gives_the_same_answer(sandbox: Sandbox) -> None:
    job = Job(program="def f(): return list({'a', 'b', 'c', 'd', 'e'})", tests="assert False, f()", entry="f")
    with Sandbox("auto", workers=1) as other:
        assert sandbox.check(job).detail == other.check(job).detail


def test_a_template_that_says_nothing_costs_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE_S", 0.3)
    with Sandbox("auto", workers=1) as sandbox:
        job = Job(program="def f(): return 1", tests="assert f() == 1", entry="f")
        assert sandbox.check(job).passed
        [idle] = sandbox._idle
        assert isinstance(idle, Worker) and idle._process is not None
        os.kill(idle._process.pid, signal.SIGSTOP)
        assert sandbox.check(job, Limits(wall_s=0.1)).reason == "time"
        monkeypatch.undo()
        assert sandbox.check(job).passed


def test_many_at_once_keep_their_order(sandbox: Sandbox) -> None:
    jobs = [Job(program=f"def f(): return {i}", tests=f"assert f() == {i - i % 3}", entry="f") for i in range(12)]
    assert [outcome.passed for outcome in sandbox.check_all(jobs)] == [i % 3 == 0 for i in range(12)]


def test_a_template_that_was_killed_is_replaced() -> None:
    with Sandbox("auto", workers=1) as sandbox:
        job = Job(program="def f(): return 1", tests="assert f() == 1", entry="f")
        assert sandbox.check(job).passed
        [idle] = sandbox._idle
        assert isinstance(idle, Worker) and idle._process is not None
        folder = Path(idle._folder or "")
        os.kill(idle._process.pid, signal.SIGKILL)
        assert folder.is_dir() and sandbox.check(job).passed
        last = Path(idle._folder or "")
    assert not folder.exists() and not last.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_when_the_starter_is_killed(tmp_path: Path) -> None:
    script = f"""
from nanochat_cli.core.sandbox.limits import Job, Limits
from nanochat_cli.core.sandbox.worker import Worker
program = "import time\\nprint('x')\\ndef f():\\n    time.sleep(60)"
worker = Worker({BARE!r})
worker.run(Job(program="def f(): pass", tests="f()", entry="f"), Limits())
print(worker._process.pid, flush=True)
worker.run(Job(program=program, tests="f()", entry="f"), Limits(wall_s=60))
"""
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert starter.stdout
    template = int(starter.stdout.readline())
    children = Path(f"/proc/{template}/task/{template}/children")
    deadline = time.monotonic() + 60
    while len(pids := children.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    starter.kill()
    starter.communicate()
    gone = [Path(f"/proc/{pid}") for pid in (template, *pids)]
    while any(path.exists() and "Z" not in (path / "stat").read_text().rpartition(")")[2].split()[0] for path in gone):
        assert time.monotonic() < deadline, "processes outlive their starter"
        time.sleep(0.02)


def test_verdicts_that_are_none() -> None:
    def reason(verdict: bytes, **report: Any) -> str:
        found = Collected(verdict=bytearray(verdict), report={"ended": {}, "stopped": None, **report})
        return judge(found, "n" * 32, Limits(), "t", 0.1).reason

    right = frames.pack({"nonce": "n" * 32})
    assert reason(right) == "passed"
    for wrong in (
        b"",
        right[:-1],
        right + b"x",
        right + right,
        frames.pack({"nonce": ""}),
        frames.pack(["n" * 32]),
        b"\0\0\0\0",
    ):
        assert reason(wrong, ended={"checker": [0, 0.1, 0], "candidate": [0, 0.1, 0]}) != "passed"
    with pytest.raises(EnvironmentLacks, match="no Landlock"):
        reason(frames.pack({"lacks": "no Landlock"}))


@needs_seccomp
def test_a_tier_that_does_not_lock_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "engine", _no_engine)
    with pytest.raises(EnvironmentLacks, match="got out"):
        tiers.prove(BARE)
    monkeypatch.setattr(tiers, "prove", _refuse)
    for mode in ("auto", "strict", "container"):
        with pytest.raises(EnvironmentLacks, match="cannot be run safely"):
            tiers.find.__wrapped__(mode)
    assert tiers.find.__wrapped__("none") == BARE
    with pytest.raises(ConfigError):
        tiers.find.__wrapped__("weak")


@needs_seccomp
def test_without_landlock_no_file_can_be_opened() -> None:
    try:
        tiers.prove(SECCOMP)
    except EnvironmentLacks as problem:
        pytest.skip(str(problem))
    one = Worker(SECCOMP)
    program = (
        "import math, re, collections\ndef f():\n    try: open(re.__file__)\n    except OSError: return math.isqrt(9)"
    )
    assert one.run(Job(program=program, tests="assert f() == 3", entry="f"), Limits()).passed
    one.close()


def test_a_process_that_cannot_be_locked_runs_nothing() -> None:
    one = Worker("landlock+seccomp" if sys.platform == "darwin" else "seatbelt")
    try:
        with pytest.raises(EnvironmentLacks, match="cannot be locked up"):
            one.run(Job(program="def f(): return 1", tests="assert f() == 1", entry="f"), Limits(wall_s=60.0))
    finally:
        one.close()


def test_none_warns() -> None:
    with Sandbox("none", workers=1) as sandbox:
        assert sandbox.warning and "--sandbox none" in sandbox.warning
        assert sandbox.check(Job(program="def f(): return 1", tests="assert f() == 1", entry="f")).tier == "none"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_fits_and_refuses_by_default(machine: str) -> None:
    code = syscalls.build(machine, 123)
    assert len(code) % 8 == 0 and len(code) // 8 < 4096
    assert _verdict(code, machine, 0 if machine == "x86_64" else 63) == "allow"
    names = {"socket": (41, 198), "clone": (56, 220), "execve": (59, 221), "ptrace": (101, 117), "kill": (62, 129)}
    column = 0 if machine == "x86_64" else 1
    for numbers in names.values():
        assert _verdict(code, machine, numbers[column]) == "refuse"
    tgkill, fcntl = ((234, 72), (131, 25))[column]
    assert _verdict(code, machine, tgkill, 123) == "allow" and _verdict(code, machine, tgkill, 124) == "refuse"
    assert _verdict(code, machine, fcntl, 3, 1) == "allow" and _verdict(code, machine, fcntl, 3, 8) == "refuse"
    assert _verdict(code, "other", 0) == "kill"
    with pytest.raises(OSError):
        syscalls.build("pdp11", 1)


def _verdict(code: bytes, machine: str, number: int, *arguments: int) -> str:
    """Run a filter as the kernel would."""
    import struct

    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}.get(machine, 1)
    data = struct.pack("IIQ6Q", number, arch, 0, *(list(arguments) + [0] * 6)[:6])
    at, held = 0, 0
    while True:
        operation, yes, no, value = struct.unpack_from("HBBI", code, 8 * at)
        at += 1
        if operation == 0x20:
            held = int.from_bytes(data[value : value + 4], "little")
        elif operation == 0x06:
            return {0x7FFF: "allow", 0x8000: "kill", 0x0005: "refuse"}[value >> 16]
        else:
            at += yes if (held == value if operation == 0x15 else held >= value) else no


def _no_engine() -> str:
    raise EnvironmentLacks("no engine")


def _refuse(tier: str) -> None:
    raise EnvironmentLacks("got out")


FAKE = """#!{python}
import os, sys
if sys.argv[1] != "run":
    sys.exit(0)
at = sys.argv.index("-X") - 4
argv = [a.replace("/opt/nanochat/nanochat_cli", {package!r}) for a in sys.argv[at:]]
os.execv(sys.executable, [sys.executable, *argv])
"""


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A docker that runs the command here, outside any container."""
    package = str(Path(worker.__file__).parents[2])
    path = tmp_path / "docker"
    path.write_text(FAKE.format(python=sys.executable, package=package), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    container.engine.cache_clear()
    container.require_image.cache_clear()
    yield path
    container.engine.cache_clear()
    container.require_image.cache_clear()


def test_container_runs_one_job_each(fake_engine: Path) -> None:
    one = container.ContainerWorker()
    assert container.engine() == str(fake_engine)
    right = one.run(
        Job(program="def f(x):\n    print('hi')\n    return x + 1", tests="assert f(1) == 2", entry="f"), Limits()
    )
    assert right.passed and right.output == "hi\n" and right.tier == "container"
    assert one.run(Job(program="def f(x): return x", tests="assert f(1) == 2", entry="f"), Limits()).reason == "failed"
    assert not one.run(Job(program="import os\nos._exit(0)", tests="assert True", entry="f"), Limits()).passed
    late = one.run(Job(program="import time\ntime.sleep(60)", tests="", entry="f"), Limits(wall_s=0.5))
    assert late.reason == "time"


def test_container_command_takes_everything_away(fake_engine: Path) -> None:
    argv = container.ContainerWorker().command("name", Limits(memory_mb=100))
    words = " ".join(argv)
    for part in (
        "--network none",
        "--read-only",
        "--cap-drop ALL",
        "no-new-privileges",
        "--user 65534:65534",
        "--memory 328m",
    ):
        assert part in words
    assert all(argv[i + 1].endswith(":ro") for i, word in enumerate(argv) if word == "-v")


def test_an_image_is_never_fetched_unasked(fake_engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys\nif sys.argv[1] == 'info':\n    sys.exit(0)\nif sys.argv[1] == 'image':\n    sys.exit(1)\n"
    fake_engine.write_text(f"#!{sys.executable}\n{script}raise SystemExit('asked to ' + sys.argv[1])", encoding="utf-8")
    with pytest.raises(EnvironmentLacks, match="image is not here") as told:
        container.ContainerWorker().run(Job(program="", tests=""), Limits())
    assert told.value.hint == f"docker pull {container.IMAGE}"
    with pytest.raises(EnvironmentLacks) as told:
        tiers.find.__wrapped__("container")
    assert (told.value.hint or "").startswith(f"docker pull {container.IMAGE}")
    assert "--pull=never" in container.ContainerWorker().command("name", Limits())


def test_container_that_does_not_start(fake_engine: Path) -> None:
    script = "import sys\nif sys.argv[1] == 'run':\n    print('no such image', file=sys.stderr)\n    sys.exit(125)\n"
    fake_engine.write_text(f"#!{sys.executable}\n{script}", encoding="utf-8")
    with pytest.raises(EnvironmentLacks, match="no such image"):
        container.ContainerWorker().run(Job(program="", tests=""), Limits())


@needs_seccomp
def test_landlock_is_what_auto_means_where_the_kernel_has_it() -> None:
    if not lockdown.landlock_version():
        pytest.skip("this kernel has no Landlock")
    assert tiers.find("auto") == tiers.find("strict") == LANDLOCK
