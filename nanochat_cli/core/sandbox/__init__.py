"""Runs Python that nobody has read, in a process that may touch nothing; another, out of its reach, judges it.

What is defended, on Linux with Landlock and seccomp:

- The program sees the standard library and one empty folder of its own. No other file can be opened, changed or
  removed; no socket, no other process, no signal to anything else; what it uses of time, memory, disk and output ends
  at its limits. It is forked from a small process that holds no secret and no environment.
- A pass cannot be forged. The tests run in a second process, which calls the program's functions through a pipe and
  gets plain values back: no object of the program's class, so no `__eq__`, takes part in a comparison. The nonce that
  means "passed" is known to that second process only and written after its last test. A program that ends early,
  patches `assert`, `builtins` or the interpreter's memory, closes descriptors or guesses, changes nothing but its own
  process. It does not see the tests either, only the arguments of each call.

What is not:

- The kernel is shared: a hole in it is a hole here. `container` adds a layer, a virtual machine would be another.
- Whether a path exists elsewhere, its size, times and where a link points can be looked up (Landlock does not watch
  `stat` and `readlink`); contents and lists of folders cannot.
- Timing channels, and a program that answers each test rightly for the wrong reason.
- Arguments and results must be plain: numbers, strings, bytes, containers of them, `Fraction`, `Decimal`. A function
  that returns an object of its own class, a generator or a function fails its test.
- The tests of a data set are trusted to mean well, but run under the same restrictions.
- No threads and no further processes; a program that needs them fails.
- macOS: Seatbelt guards files, network and processes; its memory limit is not enforced by the system.
"""
