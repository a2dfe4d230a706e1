"""What the commands that go on where they stopped say when they are stopped."""

import contextlib
from collections.abc import Iterator

from nanochat_cli.output import Output


@contextlib.contextmanager
def again(out: Output) -> Iterator[None]:
    """Say after Ctrl-C that what is done is kept; the interruption itself goes on to its exit code, 130."""
    try:
        yield
    except KeyboardInterrupt:
        out.note("stopped; what is done is kept")
        out.hint("run the same command again to go on")
        raise
