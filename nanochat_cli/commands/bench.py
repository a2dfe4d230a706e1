"""`nanochat bench train`: how fast this machine trains a model, and how much of it is used."""

from typing import Any

from nanochat_cli.commands._options import App, DryRunOpt, leaf, options_from
from nanochat_cli.commands.train import show_plan
from nanochat_cli.core import benchmark, launch
from nanochat_cli.core.report.text import duration, percent
from nanochat_cli.core.settings import BenchTrainConfig
from nanochat_cli.core.units import many
from nanochat_cli.output import Output, size

app = App("Measure how fast this machine trains.")


@app.callback()
def _group() -> None:
    """Measure how fast this machine trains."""


@app.command("train")
@leaf
@options_from(BenchTrainConfig, "bench train")
def train(cfg: BenchTrainConfig, out: Output, dry_run: DryRunOpt = False) -> None:
    """Time training steps: tokens per second, share of the device's peak, memory, waiting for data, compiling.

    Needs no corpus: without --data it trains on random tokens, which costs the same. Nothing is kept of the model.
    """
    job = benchmark.make(cfg)
    if dry_run:
        show_plan(job, out)
        return
    with out.watch() as watcher:
        outcome = launch.run(job, watcher.on_event)
    if "stopped" in outcome:
        raise launch.Interrupted("stopped before anything was measured")
    if outcome.pop("asked_to_stop", None):
        out.note(f"stopped after {outcome['steps']} of {many(cfg.bench.steps, 'step')}")
    if out.json_mode:
        out.json(outcome)
    else:
        show(outcome, out)


def show(found: dict[str, Any], out: Output) -> None:
    """Show a measurement: what was run, then what was found."""
    where = f"{found['gpus']} x {found['device']}" if found["gpus"] else found["device"]
    batch = f"{found['total_batch_size']:,} tokens, {many(found['device_batch_size'], 'row')} at a time"
    products = " with FP8 products" if found["execution"].get("fp8") else ""
    form = "compiled" if found["compiled"] else "eager"
    rows = [
        ("model", f"{found['arch']}, depth {found['depth']}, {found['parameters']:,} parameters"),
        ("machine", f"{where}, {_processes(found)}"),
        ("step", f"{batch} of {found['max_seq_len']:,}; {found['data']}"),
        ("computed in", f"{found['precision']}{products}, attention {found['attention']}, {form}"),
        ("speed", f"{found['tokens_per_s']:,.0f} tok/s, best {found['best_tokens_per_s']:,.0f}"),
        ("step time", f"{found['step_ms']:,.1f} ms, median of {found['steps']}"),
        ("MFU", _mfu(found)),
        ("peak memory", f"{size(found['peak_memory_bytes'])} ({found['peak_memory_of']})"),
        ("data stall", f"{percent(found['data_stall'])} of the time"),
        ("compiling", f"{duration(found['compile_s'])} in the first step; {_choosing(found)}"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        out.text(f"{name:<{width}}  {value}")


def _processes(found: dict[str, Any]) -> str:
    return f"{many(found['processes'], 'process', 'processes')} of {many(found['threads'], 'thread')}"


def _choosing(found: dict[str, Any]) -> str:
    return f"{duration(found['choosing_s'])} before it to set up and to choose kernels"


def _mfu(found: dict[str, Any]) -> str:
    """The share of the peak with its formula in numbers, or the rate alone where no peak is known."""
    work = f"{found['flops_per_token']:.3g} FLOPs/token x {found['tokens_per_s']:,.0f} tok/s"
    if found["mfu"] is None:
        return f"unknown, as the peak of this device is not in our table ({work} = {found['tflops']:.3g} TFLOP/s)"
    peak = f"({found['peak_tflops']:,g} TFLOP/s x {found['gpus']})"
    return f"{percent(found['mfu'])}, best {percent(found['best_mfu'])} = {work} / {peak}"
