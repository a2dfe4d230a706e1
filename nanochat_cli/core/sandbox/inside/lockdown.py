"""A process gives up its rights for good: limits, then files (Landlock), then system calls (seccomp), or Seatbelt.

Whatever cannot be given up raises OSError, so that nothing runs under less than was asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
from typing import Any

from nanochat_cli.core.sandbox.inside import BARE, LANDLOCK, SEATBELT, syscalls

MIB = 1 << 20

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_WRITE = _WRITE_FILE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13 | 1 << 14
"""Write, remove folder, remove file, make folder, make file, move between folders, truncate."""

_libc: Any = ctypes.CDLL(None, use_errno=True)


def limit(limits: dict[str, Any]) -> None:
    """Set the resource limits: CPU seconds, address space, size of a file, open files, processes, no core dumps."""
    memory = limits["memory_mb"] * MIB
    wanted = {
        "RLIMIT_CPU": limits["cpu_s"],
        "RLIMIT_AS": memory,
        "RLIMIT_DATA": memory,
        "RLIMIT_FSIZE": limits["file_mb"] * MIB,
        "RLIMIT_NOFILE": limits["open_files"],
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_NPROC": 0,
    }
    optional = {"RLIMIT_AS", "RLIMIT_DATA"} if sys.platform == "darwin" else set()
    for name, value in wanted.items():
        if not hasattr(resource, name):
            continue
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (OSError, ValueError) as problem:
            if name not in optional:
                raise OSError(f"{name} could not be set: {problem}") from problem


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (Linux)."""
    if sys.platform == "linux":
        _checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "parent-death signal")


def hide_memory() -> None:
    """Forbid other processes of this user to look into this one, by /proc or ptrace (Linux)."""
    if sys.platform == "linux":
        _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable flag")


def lock(tier: str, folder: str | None) -> None:
    """Give up files, network, processes; what is left is the standard library to read and `folder` to write.

    Raises OSError if the tier does not work here.
    """
    if tier == BARE:
        return
    if tier == SEATBELT:
        _seatbelt(folder)
        return
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    if tier == LANDLOCK:
        _landlock(folder)
    _seccomp(files=tier == LANDLOCK)


def library() -> list[str]:
    """Folders of the standard library, its compiled modules included; what may be read."""
    stdlib = os.path.dirname(os.path.realpath(os.__file__))
    compiled = [path for path in sys.path if path.endswith("lib-dynload")]
    return [stdlib, *(os.path.realpath(path) for path in compiled)]


def landlock_version() -> int:
    """Return the version of Landlock's interface; 0 where the kernel has none or has it switched off."""
    return max(0, _libc.syscall(_CREATE_RULESET, None, 0, 1))


def _landlock(folder: str | None) -> None:
    version = landlock_version()
    if version < 1:
        raise OSError("the kernel offers no Landlock")
    bits = 13 if version == 1 else 14 if version == 2 else 15 if version < 5 else 16
    handled = (1 << bits) - 1
    # Network since version 4 (bind, connect), abstract sockets and signals since version 6.
    rules = struct.pack("QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, rules, size, 0), "Landlock rules")
    for path in library():
        _allow(ruleset, path, _READ_FILE | _READ_DIR)
    _allow(ruleset, "/dev/null", _READ_FILE | _WRITE_FILE)
    _allow(ruleset, "/dev/urandom", _READ_FILE)
    if folder is not None:
        _allow(ruleset, folder, handled & (_READ_FILE | _READ_DIR | _WRITE))
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", access, handle)
        _checked(_libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"Landlock rule for {path}")
        os.close(handle)


def _seccomp(*, files: bool) -> None:
    code = syscalls.build(platform.machine(), os.getpid(), files=files)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "seccomp filter")


def seatbelt_profile(folder: str | None) -> str:
    """The rules for macOS, in the language of sandbox-exec."""
    reads = "".join(f' (subpath "{path}")' for path in [*library(), "/usr/lib", "/System/Library"])
    lines = [
        "(version 1)(deny default)(allow sysctl-read)(allow file-read-metadata)",
        f'(allow file-read*{reads} (literal "/dev/null") (literal "/dev/urandom"))',
        '(allow file-write* (literal "/dev/null"))',
    ]
    if folder is not None:
        lines.append(f'(allow file-read* file-write* (subpath "{os.path.realpath(folder)}"))')
    return "\n".join(lines)


def _seatbelt(folder: str | None) -> None:
    # The call behind sandbox-exec, which could not let the template fork and forbid it to its children.
    problem = ctypes.c_char_p()
    if _libc.sandbox_init(seatbelt_profile(folder).encode(), 0, ctypes.byref(problem)) != 0:
        raise OSError(f"Seatbelt refused: {(problem.value or b'').decode(errors='replace')}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result
