"""`nanochat plan`: what a base training would need, before anything is downloaded or started."""

from typing import Any

from nanochat_cli.commands._options import App, leaf, options_from
from nanochat_cli.commands._sizes import GROUPS, batch, big, horizon, network, pairs
from nanochat_cli.core import config
from nanochat_cli.core import plan as core
from nanochat_cli.core.estimate import GIB
from nanochat_cli.core.report.text import duration, size
from nanochat_cli.core.settings import PlanConfig
from nanochat_cli.core.units import many
from nanochat_cli.output import Output

app = App("What a training needs: parameters, memory, data, hours and cost.", single=True)


@app.command("plan")
@leaf
@options_from(PlanConfig, "train base")
def plan(cfg: PlanConfig, out: Output, resolved: config.Resolved[PlanConfig]) -> None:
    """Show what `nanochat train base` with these options needs: parameters, FLOPs, data, disk, memory, hours, cost.

    Works on any computer, without a corpus, a tokenizer or a GPU. Nothing is written or started.
    """
    found = core.make(cfg, resolved.typed)
    if out.json_mode:
        out.json(found)
        return
    _show_model(found, out)
    _show_training(found, out)
    _show_memory(found, out)
    out.text("\nassumed")
    for line in found["assumptions"]:
        out.text(f"  {line}")
    for line in found["warnings"]:
        out.warning(line)


def _show_model(found: dict[str, Any], out: Output) -> None:
    model, params = found["model"], found["parameters"]
    out.text(f"{network(model)}\n")
    rows = [(label, params[key], _share(params[key], params["total"])) for key, label in GROUPS.items() if params[key]]
    rows.append(("all", params["total"], ""))
    out.table(("parameters", "number", "share"), rows)


def _show_training(found: dict[str, Any], out: Output) -> None:
    training, data, disk, time = (found[name] for name in ("training", "data", "disk", "time"))
    device = found["device"]
    where = f"{device['count']} x {device['name']}" if device["kind"] == "gpu" else device["name"]
    rows = [
        ("tokens", horizon(training)),
        ("batch", batch(training, device["count"])),
        ("compute", f"{training['flops_per_token']:.3g} FLOPs a token, {training['flops']:.3g} in all"),
        ("text", f"{big(data['characters'])} characters, about {many(data['shards'], 'shard')}"),
        ("disk", f"{size(disk['total'])}: {_disk(disk)}"),
        ("machine", where),
        ("time", _hours(time)),
        ("cost", f"${time['usd']:,.2f}" if time["usd"] is not None else "unknown"),
    ]
    if (corpus := data["corpus"]) is not None:
        about = "about " if corpus["estimated"] else ""
        times = many(corpus["epochs"], "time", form=".3g")
        held = f"{corpus['name']}, {about}{big(corpus['tokens'])} tokens: read {times}"
        rows.insert(4, ("data at hand", held))
    out.text("")
    pairs(rows, out)


def _show_memory(found: dict[str, Any], out: Output) -> None:
    memory = found["memory"]
    limit = memory["limit"]
    rows = [
        (name.replace("_", " "), _gib(amount), _share(amount, memory["total"]))
        for name, amount in memory["parts"].items()
        if amount
    ]
    rows.append(("all", _gib(memory["total"]), f"of {limit / GIB:.1f}" if limit else ""))
    out.text("")
    unit = "GPU" if found["device"]["kind"] == "gpu" else "process"
    out.table((f"memory per {unit}", "GiB", "share"), rows)
    if memory["largest_device_batch"]:
        out.text(f"up to {many(memory['largest_device_batch'], 'row')} at a time would fit")


def _disk(disk: dict[str, Any]) -> str:
    return ", ".join(f"{name} {size(disk[name])}" for name in ("shards", "tokens", "checkpoints"))


def _hours(time: dict[str, Any]) -> str:
    if time["hours"] is None:
        return "unknown: no speed was measured here, and none is known"
    shown = duration(3600 * time["hours"])
    return f"{shown} at {time['tokens_per_s']:,.0f} tok/s" + (" in FP8" if time["fp8"] else "")


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:7.2f}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:5.1f} %"
