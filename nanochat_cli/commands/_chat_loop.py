"""The conversation on the terminal: reads lines, obeys slash commands, streams replies, survives Ctrl-C."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nanochat_cli.commands.chat import footer
from nanochat_cli.core import paths
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.output import Output

if TYPE_CHECKING:
    from nanochat_cli.core.engine.session import Session

_HISTORY_LINES = 1000
HELP = """\
/clear              forget the conversation so far
/regen              answer the last question again, differently
/set                show temperature, top_k, max_tokens and seed
/set NAME VALUE     change one of them
/help               this list
/quit               leave (so does Ctrl-D)

Ctrl-C stops the answer and keeps the conversation. A line that ends in \\ goes on in the next.
Start with // to ask something that begins with a slash."""


class Loop:
    """One conversation. `read` gives a line for a prompt; it raises EOFError at the end."""

    def __init__(self, session: "Session", out: Output, read: Callable[[str], str] = input) -> None:
        self.session, self.out, self.read = session, out, read
        self._commands: dict[str, Callable[[str], bool]] = {
            "help": self._help,
            "clear": self._clear,
            "regen": self._regen,
            "set": self._set,
            "quit": lambda _: False,
            "exit": lambda _: False,
        }

    def run(self) -> None:
        """Talk until /quit, Ctrl-D or two Ctrl-C in a row at the prompt."""
        self.out.note("type /help for what you can do, /quit or Ctrl-D to leave")
        interrupted = False
        with _line_editing():
            while True:
                try:
                    line = self._read_message()
                except EOFError:
                    self.out.text("")
                    return
                except KeyboardInterrupt:
                    self.out.text("")
                    if interrupted:
                        raise
                    interrupted = True
                    self.out.note("press Ctrl-C again, or Ctrl-D, to leave")
                    continue
                interrupted = False
                if line and not self._obey(line):
                    return

    def _read_message(self) -> str:
        """One message: a line, and those after it as long as each ends in a backslash."""
        lines = [self.read("\n> ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self.read("… "))
        return "\n".join(lines).strip()

    def _obey(self, line: str) -> bool:
        """Run a slash command or ask the question. False: the conversation is over."""
        try:
            if line.startswith("/") and not line.startswith("//"):
                name, _, rest = line[1:].partition(" ")
                if name in self._commands:
                    return self._commands[name](rest.strip())
                self.out.warning(f"no such command: /{name} (type /help)")
                return True
            self._speak(self.session.ask(line.removeprefix("/") if line.startswith("//") else line))
        except NanochatError as problem:
            self.out.error(str(problem), problem.hint)
        return True

    def _speak(self, pieces: Iterator[str]) -> None:
        """Write the reply as it comes; Ctrl-C ends it and what was said stays in the conversation."""
        with contextlib.closing(pieces), contextlib.suppress(KeyboardInterrupt):  # type: ignore[type-var]
            for number, piece in enumerate(pieces):
                if number == 0:
                    self._tell_dropped()
                self.out.text(piece, end="")
        self.out.text("")
        footer(self.session.last, self.out)

    def _tell_dropped(self) -> None:
        if dropped := self.session.last.dropped:
            turns = "turn was" if dropped == 1 else f"{dropped} turns were"
            self.out.note(f"the context is full: the oldest {turns} forgotten")

    # ---- slash commands ----------------------------------------------------------------------------------------------

    def _help(self, _: str) -> bool:
        self.out.text(HELP)
        return True

    def _clear(self, _: str) -> bool:
        self.session.clear()
        self.out.note("forgotten")
        return True

    def _regen(self, _: str) -> bool:
        if self.session.sampling.temperature == 0:
            self.out.note("at temperature 0 the answer stays the same: /set temperature 0.8")
        self._speak(self.session.again())
        return True

    def _set(self, rest: str) -> bool:
        name, _, value = rest.partition(" ")
        if name:
            self.session.set_text(name, value.strip())
        now = self.session.sampling
        self.out.text(
            f"temperature {now.temperature:g}  top_k {now.top_k or 0}  max_tokens {now.max_tokens}  seed {now.seed}"
        )
        return True


@contextlib.contextmanager
def _line_editing() -> Iterator[None]:
    """Arrow keys and a history that outlives the process, where the system has readline; else plain lines."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = paths.base_dir() / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)
            path.chmod(0o600)
