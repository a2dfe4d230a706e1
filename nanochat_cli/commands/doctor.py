"""`nanochat doctor`: what this machine has and lacks, with what to do about each finding."""

from dataclasses import asdict

from nanochat_cli.commands._options import App, leaf
from nanochat_cli.core import doctor as core
from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.output import Output

app = App("Check what this machine has and lacks.", single=True)


@app.command("doctor")
@leaf
def doctor(out: Output) -> None:
    """Check what this machine has and lacks: Python, torch, devices, compiler, memory, disk.

    Exits with 4 if something is missing without which nothing works.
    """
    checks = core.examine()
    if out.json_mode:
        out.json([asdict(check) for check in checks])
    else:
        _show(checks, out)
    if broken := core.failures(checks):
        names = ", ".join(check.name for check in broken)
        raise EnvironmentLacks(f"not ready: {names}", hint=broken[0].hint or None)


def _show(checks: list[core.Check], out: Output) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        out.text(f"{check.status:<4}  {check.name:<{width}}  {check.found}")
        if check.hint and (check.status != "ok" or out.verbose):
            out.text(f"{'':<6}{'':<{width}}  → {check.hint}")
    worst = [check for check in checks if check.status == "warn"]
    if not core.failures(checks):
        out.note("ready" + (f"; {len(worst)} thing(s) could be better" if worst else ""))
