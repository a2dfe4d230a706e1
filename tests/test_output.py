"""What a stranger sees, and what happens when nobody looks."""

from __future__ import annotations

import io
import json

from nanochat_cli.output import LineWatcher, Output


class Gone(io.StringIO):
    """A terminal whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_work_goes_on_when_nobody_reads_its_progress() -> None:
    output = Output()
    output.err = Gone()
    watcher = LineWatcher(output)
    for text in ("one", "two"):
        watcher.on_event({"kind": "note", "time": 0.0, "text": text})
    with watcher:
        pass
    for speak in (output.note, output.hint, output.heading, output.warning, output.error):
        speak("three")


def test_json_holds_no_byte_that_steers_a_terminal() -> None:
    out = io.StringIO()
    Output(json_mode=True, out=out).json({"reply": "a\x1b[2J\x9b2J\x7fé"})
    assert not any((c < " " and c != "\n") or "\x7f" <= c <= "\x9f" for c in out.getvalue())
    assert json.loads(out.getvalue()) == {"reply": "a\x1b[2J\x9b2J\x7fé"}
