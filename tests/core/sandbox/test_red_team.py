"""Programs that try to get out, or to be scored as right: each is wrong, none may pass, nothing outside may change."""

import os
import socket
import sys
import textwrap
from pathlib import Path

import pytest

from nanochat_cli.core.sandbox.limits import Job, Limits, Outcome
from nanochat_cli.core.sandbox.pool import Sandbox

TESTS = "def check(f):\n    assert f(1) == 2, 'wrong'\n    assert f(5) == 6, 'wrong'\n\ncheck(f)\n"
SHORT = Limits(wall_s=20, cpu_s=1, memory_mb=256)


def judged(sandbox: Sandbox, program: str, limits: Limits | None = None) -> Outcome:
    return sandbox.check(Job(program=textwrap.dedent(program), tests=TESTS, entry="f"), limits)


# Tricks on the score: what a program may try to be counted as right without being right.
CHEATS = {
    "sys.exit at load": "import sys\nf = lambda x: 0\nsys.exit(0)",
    "os._exit at load": "import os\nf = lambda x: 0\nos._exit(0)",
    "sys.exit in the call": "import sys\ndef f(x): sys.exit(0)",
    "os._exit in the call": "import os\ndef f(x): os._exit(0)",
    "SystemExit raised": "def f(x): raise SystemExit(0)",
    "equal to everything": """
        class Any:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __bool__(self): return True
        def f(x): return Any()
        """,
    "an int equal to everything": """
        class Any(int):
            def __eq__(self, other): return True
            def __int__(self): return 2
            __hash__ = int.__hash__
        def f(x): return Any(7)
        """,
    "a str equal to everything": """
        class Any(str):
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        def f(x): return Any('?')
        """,
    "own check": "def f(x): return 0\ndef check(f): pass",
    "no assertions": """
        import builtins
        builtins.AssertionError = type('Quiet', (BaseException,), {})
        def f(x): return 0
        """,
    "builtins replaced": """
        import builtins, types
        def f(x):
            builtins.__build_class__ = builtins.isinstance = builtins.compile = builtins.exec = lambda *a, **k: True
            return 0
        """,
    "trace function": """
        import sys
        def skip(frame, event, argument): return skip
        sys.settrace(skip)
        def f(x):
            for frame in sys._current_frames().values():
                while frame:
                    for name in list(frame.f_locals): frame.f_locals[name] = 2
                    frame = frame.f_back
            return 0
        """,
    "encoder replaced": """
        import sys
        for name, module in list(sys.modules.items()):
            if name.endswith('frames'):
                module.encode = lambda value: {'nonce': 'x'}
            if name.endswith('checker'):
                module._ask = lambda *a: 2
                module.check = lambda *a: None
        def f(x): return 0
        """,
    "a nonce guessed, on every descriptor": """
        import json, os
        def frame(message):
            body = json.dumps(message).encode()
            return len(body).to_bytes(4, 'little') + body
        def f(x):
            print('nonce', 'passed', 0)
            for fd in range(3, 64):
                try: os.write(fd, frame({'nonce': '0' * 32}))
                except OSError: pass
            return 0
        """,
    "answers in advance": """
        import json, os
        def f(x):
            body = json.dumps({'value': True}).encode()
            for fd in range(3, 16):
                try: os.write(fd, (len(body).to_bytes(4, 'little') + body) * 50)
                except OSError: pass
            return 0
        """,
    "descriptors closed": "import os\ndef f(x):\n    os.closerange(0, 1000)\n    return 0",
    "junk instead of an answer": "import os\ndef f(x):\n    os.write(3, b'\\xff' * 100)\n    return 0",
    "deep answer": "def f(x):\n    a = []\n    for _ in range(500): a = [a]\n    return a",
    "endless answer": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "at exit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): raise KeyboardInterrupt",
    "exception on call": "def f(x): raise StopIteration",
    "searching memory for the nonce": """
        import gc, re
        def f(x):
            found = [o for o in gc.get_objects() if isinstance(o, dict) and 'nonce' in o]
            assert not found
            return 0
        """,
    "a template's functions": """
        import sys
        def f(x):
            template = sys.modules.get('nanochat_cli.core.sandbox.inside.template')
            if template: template.start('checker', {'limits': {}, 'tier': 'none'}, [0, 1, 2], None)
            return 0
        """,
    "wrong only at the end": "def f(x): return 2",
    "no function": "g = 1",
    "a value instead of a function": "f = 2",
    "not Python": "def f(x: return 2",
    "null byte": "\0",
    "nothing": "",
}


@pytest.mark.parametrize("name", CHEATS)
def test_no_trick_is_scored_as_a_pass(sandbox: Sandbox, name: str) -> None:
    outcome = judged(sandbox, CHEATS[name])
    assert not outcome.passed
    assert outcome.reason in ("failed", "error", "ended"), outcome


def test_the_right_program_passes_after_all_that(sandbox: Sandbox) -> None:
    assert judged(sandbox, "def f(x): return x + 1").passed
    assert judged(sandbox, "class C(int): pass\ndef f(x): return C(x + 1)").passed  # travels as the int that it is


# Attempts on the host. Each returns x + 1, a pass, only if it got through: so none may pass.
ESCAPES = {
    "/etc/passwd": "open('/etc/passwd').read()",
    "home": "import os; os.listdir({home!r})",
    "a file of the user": "open({canary!r}).read()",
    "the package itself": "open({package!r}).read()",
    "writing outside": "open({canary!r} + '.new', 'w').write('x')",
    "appending": "open({canary!r}, 'a').write('x')",
    "truncating": "import os; os.truncate({canary!r}, 0)",
    "deleting": "import os; os.unlink({canary!r})",
    "renaming": "import os; os.rename({canary!r}, 'mine')",
    "hard link": "import os; os.link({canary!r}, 'mine'); open('mine').read()",
    "symbolic link": "import os; os.symlink({canary!r}, 'mine'); open('mine').read()",
    "mode": "import os; os.chmod({canary!r}, 0)",
    "times": "import os; os.utime({canary!r}, (0, 0))",
    "attribute": "import os; os.setxattr({canary!r}, 'user.x', b'1')",
    "by way of /proc": "open('/proc/self/root' + {canary!r}).read()",
    "its starter's memory": "import os; open(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "its starter's command line": "import os; open(f'/proc/{{os.getppid()}}/cmdline').read()",
    "its own descriptors": "import os; os.listdir('/proc/self/fd')",
    "the checker's memory": "import os; open(f'/proc/{{os.getpid() + 1}}/mem', 'r+b')",
    "socket": "import socket; socket.socket()",
    "connection": "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
    "datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "fork": "import os; os.fork() or os._exit(0)",
    "reload": "import importlib, os; assert importlib.reload(os).system('true') == 0",
    "posix": "import posix; assert posix.system('true') == 0",
    "subprocess": "import subprocess; subprocess.run([{python!r}, '-c', ''], check=True)",
    "exec": "import os; os.execv({python!r}, ['python', '-c', ''])",
    "thread": "import threading; threading.Thread(target=print).start()",
    "kill the starter": "import os; os.kill(os.getppid(), 9)",
    "kill everybody": "import os; os.kill(-1, 9)",
    "kill by ownership of a pipe": (
        "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid()); "
        "fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC); os.write(w, b'x')"
    ),
    "limits of another": "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "ctypes: open": (
        "import ctypes; c = ctypes.CDLL(None); "
        "b = ctypes.create_string_buffer(9); fd = c.open({canary!r}.encode(), 0); assert c.read(fd, b, 9) > 0"
    ),
    "ctypes: socket": "import ctypes; assert ctypes.CDLL(None).socket(2, 1, 0) >= 0",
    "ctypes: system": "import ctypes; assert ctypes.CDLL(None).system(b'true') == 0",
    "ctypes: fork": "import ctypes; assert ctypes.CDLL(None).fork() >= 0",
    "ctypes: ptrace": "import ctypes, os; assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "ctypes: mount": "import ctypes; assert ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, 0) == 0",
    "ctypes: namespaces": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "ctypes: io_uring": "import ctypes; assert ctypes.CDLL(None).syscall(425, 1, bytes(120)) >= 0",
    "ctypes: bpf": "import ctypes; assert ctypes.CDLL(None).syscall(321, 0, bytes(72), 72) >= 0",
    "ctypes: keyring": "import ctypes; assert ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0",
    "ctypes: the old 32-bit door": "import ctypes; assert ctypes.CDLL(None).syscall(0x40000000 + 39) > 0",
    "ctypes: memory of another": (
        "import ctypes, os; assert ctypes.CDLL(None).syscall(310, os.getppid(), 0, 0, 0, 0, 0) == 0"
    ),
    "ctypes: unlock": "import ctypes; assert ctypes.CDLL(None).prctl(22, 0, 0) == 0",
    "environment": "import os; assert os.environ or any('/' in value for value in os.environb.values())",
    "standard input": "input()",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the list is for Linux")
def test_no_attempt_on_the_host_gets_through(sandbox: Sandbox, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("secret", encoding="utf-8")
    before = canary.stat()
    names = {"home": os.path.expanduser("~"), "canary": str(canary), "package": __file__, "python": sys.executable}
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(1)
        udp.bind(tcp.getsockname())
        udp.setblocking(False)
        jobs = []
        for attempt in ESCAPES.values():
            line = attempt.format(**names, port=tcp.getsockname()[1])
            jobs.append(
                Job(program=f"def f(x):\n    if x == 1:\n        {line}\n    return x + 1\n", tests=TESTS, entry="f")
            )
        outcomes = sandbox.check_all(jobs)
        with pytest.raises(BlockingIOError):
            udp.recv(10)
    assert [name for name, outcome in zip(ESCAPES, outcomes, strict=True) if outcome.passed] == []
    gone = [name for name, outcome in zip(ESCAPES, outcomes, strict=True) if outcome.reason not in ("error", "failed")]
    assert gone in ([], ["ctypes: the old 32-bit door"])  # which the kernel answers by killing who knocks
    # Each was refused, not broken: a mistake in an attempt would prove nothing.
    broken = ("SyntaxError", "ImportError", "ModuleNotFoundError", "NameError", "TypeError", "AttributeError")
    assert [o.detail for o in outcomes if o.detail.startswith(broken)] == []
    assert sorted(tmp_path.iterdir()) == [canary]
    assert canary.read_text(encoding="utf-8") == "secret"
    after = canary.stat()
    assert (after.st_mode, after.st_mtime, after.st_nlink) == (before.st_mode, before.st_mtime, 1)


def test_busy_loop_ends_by_processor_time(sandbox: Sandbox) -> None:
    outcome = judged(
        sandbox, "import signal\nsignal.signal(signal.SIGXCPU, print)\ndef f(x):\n    while True: pass", SHORT
    )
    assert outcome.reason == "time"


def test_sleep_ends_by_the_clock(sandbox: Sandbox) -> None:
    outcome = judged(sandbox, "import time\ndef f(x): time.sleep(99)", Limits(wall_s=0.5))
    assert outcome.reason == "time" and outcome.seconds < 15


def test_memory_is_bounded(sandbox: Sandbox) -> None:
    assert judged(sandbox, "def f(x): return len(bytearray(4 << 30))").reason == "memory"
    held = "kept = []\ndef f(x):\n    while True: kept.append(bytearray(8 << 20))"
    assert judged(sandbox, held).reason in ("memory", "ended")
    assert judged(sandbox, "def f(x): return len(bytearray(64 << 20)) and x + 1").passed


def test_fork_bomb_makes_no_process(sandbox: Sandbox) -> None:
    bomb = """
        import os
        def f(x):
            made = 0
            for _ in range(100):
                try:
                    made += os.fork() >= 0
                except OSError:
                    pass
            return made
        """
    outcome = judged(sandbox, bomb)
    assert outcome.reason == "failed", outcome
    assert sandbox.check(Job(program=textwrap.dedent(bomb), tests="assert f(1) == 0", entry="f")).passed


def test_output_is_cut(sandbox: Sandbox) -> None:
    outcome = judged(sandbox, "def f(x):\n    print('a' * 3_000_000)\n    return x + 1")
    assert outcome.passed and outcome.truncated and outcome.output == "a" * 65_536


def test_files_are_bounded_and_gone_afterwards(sandbox: Sandbox) -> None:
    one = "import os\ndef f(x):\n    with open('a', 'wb') as file: file.write(bytes(9 << 20))\n    return x + 1"
    assert not judged(sandbox, one).passed
    many = """
        def f(x):
            for i in range(10**6):
                with open(f'a{i % 900}', 'wb') as file: file.write(bytes(1 << 20))
        """
    assert judged(sandbox, many).reason == "disk"
    nest = """
        import os
        assert os.listdir() == []
        for _ in range(15):
            os.mkdir('a')
            os.chdir('a')
        os.mkdir('closed', 0)
        def f(x):
            return x + 1
        """
    for _ in range(3):  # every worker finds an empty folder again
        assert judged(sandbox, nest).passed


def test_a_program_sees_neither_the_tests_nor_an_earlier_program(sandbox: Sandbox) -> None:
    mark = "needle" + os.urandom(8).hex()
    sandbox.check(Job(program=f"kept = '{mark}1'\ndef f(x): return 0", tests=f"assert f(1) == '{mark}2'", entry="f"))
    look = f"""
        import gc, sys
        def f(x):
            wanted = {mark[:11]!r} + {mark[11:]!r}
            names = [n for n in sys.modules if 'nanochat' in n]
            held = [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
            parts = [v for o in held for v in (o.values() if isinstance(o, dict) else o)]
            return sum(isinstance(v, str) and wanted in v for v in parts)
        """
    job = Job(program=textwrap.dedent(look), tests=f"# {mark}\nassert f(1) <= 1, f(1)", entry="f")
    outcome = sandbox.check(job)
    assert outcome.passed, outcome  # 1: its own constant
