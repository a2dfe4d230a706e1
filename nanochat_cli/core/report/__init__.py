"""The report card of a run: one Markdown file and one HTML file, made from what the stages recorded."""

from __future__ import annotations

from pathlib import Path

from nanochat_cli.core import paths
from nanochat_cli.core.events import NULL, Log


def write(run: str, *, into: Path | None = None, log: Log = NULL) -> list[Path]:
    """Write `report.md` and `report.html` of a run, in its folder or in `into`, and return their paths.

    Raises MissingArtifact if no stage of the run has recorded anything.
    """
    from nanochat_cli.core.report.card import write_report

    written = write_report(paths.run_dir(run), into)
    log.note(f"report written: {written.html}")
    return [written.markdown, written.html]
