"""The only writer to the terminal: results on stdout; progress, notes, hints and errors on stderr."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from nanochat_cli.core import events
from nanochat_cli.core.events import Event

_ETA_AFTER_S = 2.0
_QUIET_LINE_EVERY_S = 10.0
_COLOURS = {"error": "31", "warning": "33", "hint": "36", "note": "2", "stage": "1;32", "head": "1"}


_C1 = re.compile("[\x7f-\x9f]")


def clean(text: str) -> str:
    """Return text without control characters, so that nothing a file or a model says can steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


@dataclass
class Output:
    """How one command talks: human or JSON, quiet or verbose, on a terminal or not."""

    json_mode: bool = False
    quiet: bool = False
    verbose: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    _unheard: bool = field(default=False, init=False)

    # ---- results (stdout) --------------------------------------------------------------------------------------------

    def text(self, text: str, end: str = "\n") -> None:
        """Write plain text as a result."""
        self.out.write(clean(text) + end)
        self.out.flush()

    def spans(self, parts: Iterable[tuple[str, str | None]]) -> None:
        """Write one result line of (text, kind) parts, each in the colour of its kind; None is plain."""
        self.out.write("".join(self.colour(clean(t), kind) if kind else clean(t) for t, kind in parts) + "\n")
        self.out.flush()

    def raw(self, content: bytes) -> None:
        """Write bytes exactly as they are to a file or pipe; on a terminal, as clean text with a line's end."""
        if self.on_terminal(self.out) or not hasattr(self.out, "buffer"):
            self.text(content.decode(errors="replace"))
        else:
            self.out.buffer.write(content)
            self.out.buffer.flush()

    def json(self, value: Any) -> None:
        """Write one JSON document as the result."""
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        # JSON itself escapes only the controls below U+0020; those up to U+009F steer terminals, too.
        self.out.write(_C1.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
        self.out.flush()

    def result(self, values: Mapping[str, Any], *, title: str | None = None) -> None:
        """Write named values: JSON, or one aligned line each."""
        if self.json_mode:
            self.json(dict(values))
            return
        if title:
            self._line(self.out, title, "head")
        shown = {key: _show(value) for key, value in values.items() if not isinstance(value, dict | list)}
        width = max((len(key) for key in shown), default=0)
        for key, value in shown.items():
            self.out.write(f"  {key.replace('_', ' '):<{width}}  {clean(value)}\n")
        self.out.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
        """Write a table; numbers are set to the right. In JSON mode it is a list of objects."""
        listed = [list(row) for row in rows]
        if self.json_mode:
            self.json([dict(zip(columns, row, strict=True)) for row in listed])
            return
        cells = [[clean(_show(value)).replace("\n", " ") for value in row] for row in listed]
        right = [
            bool(listed) and all(isinstance(row[i], int | float) or row[i] is None for row in listed)
            for i in range(len(columns))
        ]
        widths = [max([len(c), *(len(row[i]) for row in cells)]) for i, c in enumerate(columns)]
        if title:
            self._line(self.out, title, "head")

        def fit(row: Sequence[str]) -> str:
            return "  ".join(
                v.rjust(w) if r else v.ljust(w) for v, w, r in zip(row, widths, right, strict=True)
            ).rstrip()

        self._line(self.out, fit(columns), "head")
        for row in cells:
            self.out.write(fit(row) + "\n")
        self.out.flush()

    # ---- the way there (stderr) --------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Tell a fact, unless quiet."""
        if not self.quiet:
            self._line(self.err, text, "note")

    def heading(self, text: str) -> None:
        """Tell that a new part of the work begins."""
        if not self.quiet:
            self._line(self.err, text, "stage")

    def hint(self, text: str) -> None:
        """Tell the next command to type."""
        if not self.quiet:
            self._tagged("hint", text)

    def warning(self, text: str) -> None:
        """Tell something the user should act on."""
        self._tagged("warning", text)

    def error(self, text: str, hint: str | None = None) -> None:
        """Tell what went wrong in one line, then what to do about it."""
        self._tagged("error", " ".join(text.split("\n")))
        if hint:
            self._tagged("hint", hint)

    def log(self) -> events.Log:
        """Return a log whose events are drawn by this output."""
        return events.Listener(self.watch().on_event)

    def watch(self) -> Watcher:
        """Return something that draws the events of a piece of work. Close it when the work ends."""
        if self.quiet:
            return Watcher(self)
        if self.on_terminal(self.err) and not os.environ.get("NANOCHAT_NO_PROGRESS"):
            from nanochat_cli.live import LiveWatcher

            return LiveWatcher(self)
        return LineWatcher(self)

    # ---- details -----------------------------------------------------------------------------------------------------

    @staticmethod
    def on_terminal(stream: TextIO) -> bool:
        """Return whether a person sees this stream as it is written."""
        return stream.isatty() and os.environ.get("TERM") != "dumb"

    def colour(self, text: str, kind: str, stream: TextIO | None = None) -> str:
        """Return text in the colour of its kind, where the stream shows colours and `NO_COLOR` allows it."""
        stream = stream or self.out
        if os.environ.get("NO_COLOR") or not self.on_terminal(stream):
            return text
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m"

    def _line(self, stream: TextIO, text: str, kind: str) -> None:
        line = self.colour(clean(text), kind, stream)
        if stream is self.err:
            self.tell(line)
        else:
            stream.write(line + "\n")
            stream.flush()

    def _tagged(self, kind: str, text: str) -> None:
        self.tell(f"{self.colour(kind, kind, self.err)}: {clean(typed(text) if kind == 'hint' else text)}")

    def tell(self, line: str) -> None:
        """Write a line of progress. When nobody reads it any more (`2> >(head)`), the work goes on in silence."""
        if self._unheard:
            return
        try:
            self.err.write(line + "\n")
            self.err.flush()
        except BrokenPipeError:
            self._unheard = True


class Watcher:
    """Draws nothing but warnings: the base of the other two, and what `--quiet` uses."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._began: tuple[str, float, float] = ("", 0.0, 0.0)  # task of the last progress, when, and at how much

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""

    def on_event(self, event: Event) -> None:
        """Draw one event."""
        if event["kind"] == "warning":
            self.say(event["text"], "warning")
        elif not self.output.quiet:
            self.draw(event)

    def draw(self, event: Event) -> None:
        """Draw an event that is not a warning."""

    def progress_figures(self, event: Event) -> str:
        """Return what a progress event tells: amount, more in words, and the time that is left at the pace so far."""
        task, done, total = event["task"], event["done"], event["total"]
        if task != self._began[0] or done < self._began[2]:
            self._began = (task, event["time"], done)
        _, began, at_first = self._began
        share = f" ({int(100 * done / total)} %)" if total else ""
        figures = [amount(done, total, event.get("unit", "")) + share]
        if event.get("detail"):
            figures.append(event["detail"])
        spent = event["time"] - began
        if total and total > done > at_first and spent >= _ETA_AFTER_S:
            figures.append(f"ETA {duration(spent * (total - done) / (done - at_first))}")
        return " · ".join(figures)

    def say(self, text: str, kind: str = "plain") -> None:
        """Write one lasting line."""
        if kind == "warning":
            self.output.warning(text)
        elif kind == "plain":
            self.output.tell(clean(text))
        else:
            self.output._line(self.output.err, text, kind)


class LineWatcher(Watcher):
    """Plain lines: lasting events at once, steps every ten seconds, other progress as often if it takes that long."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._last = 0.0
        self._quiet_since = time.monotonic()
        self._told: tuple[str, float] = ("", 0.0)  # task and amount of the last line of progress

    def draw(self, event: Event) -> None:
        if event["kind"] == "progress":
            self._progress(event)
        elif event["kind"] == "step":
            if time.monotonic() - self._last >= _QUIET_LINE_EVERY_S or event["step"] == event["num_steps"]:
                self._last = self._quiet_since = time.monotonic()
                self.say(step_line(event))
        elif line := lasting_line(event):
            self._quiet_since = time.monotonic()
            self.say(*line)

    def _progress(self, event: Event) -> None:
        """Write a line after each ten seconds of silence, and a last one for a task that had a line before.

        So what is soon over leaves no line at all, and nothing is written twice.
        """
        figures = self.progress_figures(event)  # of each event: the pace counts from the first
        now, told = time.monotonic(), (event["task"], event["done"])
        ends = self._told[0] == event["task"] and event["done"] == event["total"]
        if (ends or now - self._quiet_since >= _QUIET_LINE_EVERY_S) and self._told != told:
            self._quiet_since, self._told = now, told
            self.say(f"{event['task']}: {figures}")


def step_line(event: Event) -> str:
    """Return one training step in a line."""
    return " · ".join((f"{event.get('stage', 'step')} {event['step']}/{event['num_steps']}", *step_figures(event)))


def step_figures(event: Event) -> list[str]:
    """Return what a training step tells: reward, loss, speed and the time that is left, as far as known."""
    figures = []
    if isinstance(event.get("reward"), float):
        figures.append(f"reward {event['reward']:.3f}")
    if isinstance(event.get("loss"), float):
        figures.append(f"loss {event['loss']:.4f}")
    if event.get("tokens_per_s"):
        figures.append(f"{event['tokens_per_s']:,.0f} tok/s")
    if event.get("rollout_tokens_per_s"):
        figures.append(f"sampling {event['rollout_tokens_per_s']:,.0f} tok/s")
    if event.get("mfu"):
        figures.append(f"MFU {100 * event['mfu']:.1f} %")
    if event.get("eta_s") is not None:
        figures.append(f"ETA {duration(event['eta_s'])}")
    return figures


def lasting_line(event: Event) -> tuple[str, str] | None:
    """Return (line, kind) for an event that stays on the screen, or None for one that is only progress."""
    match event["kind"]:
        case "stage":
            return f"{event['name']}: {event['purpose']}", "stage"
        case "note":
            return event["text"], "note"
        case "eval":
            value = event["value"]
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            return f"  step {event['step']}: {event['metric'].replace('_', ' ')} {shown}", "plain"
        case "sample":
            text = " ".join(event["text"].split())
            return f"  sample: {event['prompt']}{' ' if event['prompt'] else ''}{text[:160]}", "note"
        case "stopped":
            return event.get("text") or f"stopped at step {event['step']}, saved and resumable", "plain"
        case _:
            return None


def typed(text: str) -> str:
    """Return a text that names commands with the program as it can be typed here: by its path if no shell finds it."""
    path = sys.argv[0]
    if os.path.basename(path) != "nanochat" or shutil.which("nanochat"):
        return text
    near = os.path.relpath(path)
    shown = path if near.startswith("..") else near
    return re.sub(r"(?<![\w./-])nanochat (?=[a-z])", lambda _: f"{shown} ", text)


def amount(done: float, total: float | None, unit: str) -> str:
    """Return how much of a total is done; bytes with the unit that their number asks for."""
    if unit == "bytes":
        return f"{size(done)}{f' of {size(total)}' if total else ''}"
    return f"{done:,.0f}{f' of {total:,.0f}' if total else ''}{f' {unit}' if unit else ''}"


def duration(seconds: float) -> str:
    """Return a time span as a person writes it."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def size(num_bytes: float) -> str:
    """Return bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def _show(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
