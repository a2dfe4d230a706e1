"""Makes the report files of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanochat_cli.core import files, machine
from nanochat_cli.core.report import content, gather, html, markdown


@dataclass(frozen=True)
class Report:
    """Where the two files of a report are."""

    markdown: Path
    html: Path


def write_report(run_folder: Path, into: Path | None = None, *, dry_run: bool = False) -> Report:
    """Write `report.md` and `report.html` for a run, in its folder or in `into`, and return where they are.

    A dry run only reads. Raises MissingArtifact if the folder holds nothing that a stage recorded.
    """
    run = gather.read_run(run_folder)
    target = into or run_folder
    report = Report(target / "report.md", target / "report.html")
    if dry_run:
        return report
    recorded = run.facts.get("machine")
    known = recorded if isinstance(recorded, dict) else None
    document = content.compose(run, known or machine.describe(), measured_now=known is None)
    files.make_dir(target, "the report")
    files.write_atomic(report.markdown, markdown.write(document))
    files.write_atomic(report.html, html.write(document))
    return report
