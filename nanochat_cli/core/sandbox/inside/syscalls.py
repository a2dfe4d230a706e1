"""Which system calls a sandboxed program may make, as a filter for seccomp: everything not named is refused.

Numbers: the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import errno
import struct

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, constant: `struct sock_filter`."""

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# One row per call: name, number on x86_64, number on aarch64 (None where the call is missing there).
_BASIC = """
read 0 63|write 1 64|close 3 57|fstat 5 80|poll 7 -|lseek 8 62|mmap 9 222|mprotect 10 226|munmap 11 215|brk 12 214
rt_sigaction 13 134|rt_sigprocmask 14 135|rt_sigreturn 15 139|pread64 17 67|pwrite64 18 68|readv 19 65|writev 20 66
pipe 22 -|select 23 -|sched_yield 24 124|mremap 25 216|madvise 28 233|dup 32 23|dup2 33 -|nanosleep 35 101
getitimer 36 102|alarm 37 -|setitimer 38 103|getpid 39 172|exit 60 93|uname 63 160|fsync 74 82|fdatasync 75 83
ftruncate 77 46|gettimeofday 96 169|getrlimit 97 163|getrusage 98 165|sysinfo 99 179|times 100 153|getuid 102 174
getgid 104 176|geteuid 107 175|getegid 108 177|getppid 110 173|getpgrp 111 -|getgroups 115 158|sigaltstack 131 132
gettid 186 178|time 201 -|futex 202 98|sched_getaffinity 204 123|set_tid_address 218 96|restart_syscall 219 128
clock_gettime 228 113|clock_getres 229 114|clock_nanosleep 230 115|exit_group 231 94|pselect6 270 72|ppoll 271 73
set_robust_list 273 99|epoll_create1 291 20|epoll_ctl 233 21|epoll_wait 232 -|epoll_pwait 281 22|eventfd2 290 19
dup3 292 24|pipe2 293 59|getrandom 318 278|rseq 334 293|getcpu 309 168|sendfile 40 71
"""
# Calls that take a path: Landlock decides what they may reach. Changes of mode, owner, times and attributes are absent
# because Landlock does not watch them.
_PATHS = """
open 2 -|stat 4 -|lstat 6 -|access 21 -|getdents 78 -|getcwd 79 17|chdir 80 49|fchdir 81 50|rename 82 -|mkdir 83 -
rmdir 84 -|unlink 87 -|readlink 89 -|umask 95 166|getdents64 217 61|openat 257 56|mkdirat 258 34|newfstatat 262 79
unlinkat 263 35|renameat 264 38|readlinkat 267 78|faccessat 269 48|renameat2 316 276|statx 332 291|faccessat2 439 439
"""
_SPECIAL = {"ioctl": (16, 29), "fcntl": (72, 25), "tgkill": (234, 131), "prlimit64": (302, 261)}
_ABSENT = {"clone3": (435, 435), "copy_file_range": (326, 285), "getxattr": (191, 8), "memfd_create": (319, 279)}
# F_SETOWN and its kin stay out: they would let a program send signals to any process of the user.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def build(machine: str, pid: int, *, files: bool = True) -> bytes:
    """Return the filter for the process `pid`, as an array of `struct sock_filter`.

    Without `files` every call that takes a path is refused too. Raises OSError for a processor without a table.
    """
    if machine not in _AUDIT:
        raise OSError(f"no table of system calls for this processor: {machine}")
    column = 0 if machine == "x86_64" else 1
    allowed = _numbers(_BASIC, column) + (_numbers(_PATHS, column) if files else [])
    code: list[Instruction] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT[machine]), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]
    for number in allowed:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    special = {name: numbers[column] for name, numbers in _SPECIAL.items()}
    code += _when(special["ioctl"], [(_RETURN, 0, 0, _ERRNO | errno.ENOTTY)])
    code += _when(special["fcntl"], _one_of(1, _FCNTL))
    code += _when(special["tgkill"], _one_of(0, (pid,)))
    # Reading one's own limits is fine. Root could raise them, and they can be set for other processes.
    code += _when(special["prlimit64"], _zero(_word(0), _word(2), _word(2) + 4))
    for numbers in _ABSENT.values():
        code += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += [(_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _numbers(table: str, column: int) -> list[int]:
    rows = (entry.split() for line in table.strip().splitlines() for entry in line.split("|"))
    return [int(row[1 + column]) for row in rows if row[1 + column] != "-"]


def _word(argument: int) -> int:
    """Offset of the lower half of an argument in `struct seccomp_data` (little-endian)."""
    return 16 + 8 * argument


def _when(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run `body`, which returns, for this call only."""
    return [(_EQUAL, 0, len(body), number), *body]


def _one_of(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    code: list[Instruction] = [(_LOAD, 0, 0, _word(argument))]
    for value in values:
        code += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return [*code, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _zero(*offsets: int) -> list[Instruction]:
    code: list[Instruction] = []
    for offset in offsets:
        code += [(_LOAD, 0, 0, offset), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return [*code, (_RETURN, 0, 0, _ALLOW)]
