"""Whether a new model's short windows pay here: they do only where a kernel skips what lies outside them."""

from __future__ import annotations

import dataclasses

import torch

from nanochat_cli.core import checkpoint, files, stepdirs
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.errors import NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models import flash, kernels
from nanochat_cli.core.models.kernel_parts import Sizes
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.runs import RunContext, checkpoint_steps
from nanochat_cli.core.settings import ComputeSection
from nanochat_cli.core.train import precision, probe

_INSTALL = {"fa4": "flash-attn-4", "fa3": "flash-attn-3", "fa2": "flash-attn"}


def settled(net: ModelConfig, compute: ComputeSection, run: RunContext, dist: Dist, log: Log) -> ModelConfig:
    """Return the shape that a stage trains a new model in, the same in every process.

    A resumed run keeps the windows of its newest checkpoint, whatever the machine.
    """
    if run.resume and checkpoint_steps(run.dir):
        return _as_saved(net, compute, run, dist.device, log)
    fitting = fitting_windows(net, dist.device, compute, log) if dist.is_main else net
    unchanged = dist.broadcast(torch.tensor([int(fitting == net)], device=dist.device)).item()
    return net if unchanged else full_context(net)


def fitting_windows(net: ModelConfig, device: torch.device, requested: ComputeSection, log: Log) -> ModelConfig:
    """Return the shape as it is, or with full context in every layer where windows would make it slower, and say so.

    On a CPU windows cost nothing. Whoever asks for a kernel that goes through a mask keeps them.
    """
    on_cpu = device.type == "cpu" and kernels.capability(device) is None
    if not Sizes.of(net).windows or on_cpu:
        return net
    if requested.attention not in ("auto", "matmul", "fused"):
        return net
    if requested.attention != "auto":
        log.warning(f"windows are slow with attention {requested.attention}: --window-pattern L does without them")
        return net
    dtype = precision.candidates(device)[-1] if requested.precision == "auto" else requested.precision
    if probe.usable_windowed(net, dtype, requested, device, log):
        return net
    log.warning(
        f"every layer sees the whole context (window_pattern L instead of {net.window_pattern}): short windows would "
        f"be slow here, as no attention kernel skips what lies outside them ({_reasons(net, dtype, requested, device)})"
        f"{_advice(device)}; --attention fused keeps the windows at that price"
    )
    return full_context(net)


def full_context(net: ModelConfig) -> ModelConfig:
    """Return a shape without short windows."""
    return dataclasses.replace(net, window_pattern="L", short_window=0)


def _as_saved(
    net: ModelConfig, compute: ComputeSection, run: RunContext, device: torch.device, log: Log
) -> ModelConfig:
    """The shape with the windows that were settled at the first start; whatever else differs is told later."""
    for step in reversed(checkpoint_steps(run.dir)):
        path = stepdirs.step_dir(run.dir, step)
        try:
            saved = checkpoint.model_config(files.read_json(path / "config.json", "checkpoint config"), path)
        except NanochatError:  # a damaged one is passed over, as when it is loaded
            continue
        if saved != net and saved == full_context(net):
            log.note("every layer sees the whole context, as when this run began")
            return saved
        break
    if fitting_windows(net, device, compute, NULL) != net:
        log.warning("this run began with short windows and keeps them; they are slow here, as no kernel skips the rest")
    return net


def _reasons(net: ModelConfig, dtype: str, requested: ComputeSection, device: torch.device) -> str:
    narrow, head_dim = precision.TORCH[dtype], net.head_dim
    found = {form: kernels.lacking(form, device, dtype=narrow, head_dim=head_dim) for form in kernels.WINDOWED}
    if found["flex"] is None and requested.compile == "off":
        found["flex"] = "needs compilation, which is off"
    return ", ".join(f"{form}: {why or 'does not work'}" for form, why in found.items())


def _advice(device: torch.device) -> str:
    """What to install, of what is made for this GPU; nothing where no package would help."""
    made = [form for form in flash.FORMS if kernels.lacking(form, device) == "not installed"]
    return f"; pip install {_INSTALL[made[0]]} brings one" if made else ""
