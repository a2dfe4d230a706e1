"""Live progress on a terminal: one bar that follows the work, smaller ones for its parts, lasting lines above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from nanochat_cli.core.events import Event
from nanochat_cli.output import Output, Watcher, amount, clean, lasting_line, step_figures

_STYLES = {"warning": "yellow", "note": "dim", "stage": "bold green", "plain": ""}


class LiveWatcher(Watcher):
    """Draws events with rich. Text is never read as markup."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._console = Console(file=output.err, highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            console=self._console,
            transient=True,
            refresh_per_second=8,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._parts: dict[str, TaskID] = {}

    def close(self) -> None:
        self._progress.stop()
        self._task, self._name, self._parts = None, "", {}

    def say(self, text: str, kind: str = "plain") -> None:
        prefix = "warning: " if kind == "warning" else ""
        self._console.print(Text(prefix + clean(text), style=_STYLES[kind]))

    def draw(self, event: Event) -> None:
        if event["kind"] == "step":
            self._show(event.get("stage", "training"), event["step"], event["num_steps"], _step_detail(event))
        elif event["kind"] == "progress":
            self._show(event["task"], event["done"], event["total"], self.progress_figures(event))
            self._show_parts(event.get("parts", ()), event.get("unit", ""))
        else:
            if event["kind"] in ("done", "stopped", "error", "stage"):
                self.close()
            if line := lasting_line(event):
                self.say(*line)

    def _show(self, name: str, done: float, total: float | None, detail: str) -> None:
        if self._task is None or name != self._name:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._progress.start()
            self._task, self._name = self._progress.add_task(clean(name), total=total, detail=""), name
        self._progress.update(self._task, completed=done, total=total, detail=clean(detail))

    def _show_parts(self, parts: Sequence[Mapping[str, Any]], unit: str) -> None:
        """One bar for each part that is being worked on: files that are fetched side by side."""
        for name in self._parts.keys() - {part["name"] for part in parts}:
            self._progress.remove_task(self._parts.pop(name))
        for part in parts:
            if part["name"] not in self._parts:
                self._parts[part["name"]] = self._progress.add_task(f"  {clean(part['name'])}", total=None, detail="")
            detail = part.get("detail") or amount(part["done"], part["total"], unit)
            self._progress.update(
                self._parts[part["name"]], completed=part["done"], total=part["total"], detail=clean(detail)
            )


def _step_detail(event: Event) -> str:
    count = f"{event['step']:>{len(str(event['num_steps']))}}/{event['num_steps']}"
    return "  ".join((count, *step_figures(event)))
