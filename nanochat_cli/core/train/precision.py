"""Which narrow number formats a device trains in, and the loss scaling that fp16 cannot do without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from nanochat_cli.core.errors import ConfigError, Diverged, EnvironmentLacks
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models import fp8

BF16_CAPABILITY = (8, 0)
FP8_LEAST_LAYERS = 20
"""Below this depth products are so small that quantising costs more than it gains."""
DTYPES = ("fp32", "bf16", "fp16")
TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_FIRST_SCALE = 2.0**16
_LARGEST_SCALE = 2.0**32
_GROWS_AFTER = 2000


def candidates(device: torch.device) -> tuple[str, ...]:
    """Return the dtypes worth timing on a device: GPUs before Ampere multiply fp16, and only emulate bf16.

    On Apple's GPUs attention in either was wrong without a word (pytorch#195910), so there it must be asked for. On
    modern GPUs bf16 is many times faster than fp32, which need not be found out with a second model in memory.
    """
    if device.type == "mps":
        return ("fp32",)
    if device.type != "cuda":
        return ("fp32", "bf16")
    return ("fp32", "fp16") if torch.cuda.get_device_capability(device) < BF16_CAPABILITY else ("bf16",)


def of_optimizer(dtype: str) -> str:
    """Return the precision of the optimizer's own products: its numbers were not made for the range of fp16."""
    return "fp32" if dtype == "fp16" else dtype


def use_fp8(switch: str, device: torch.device, *, n_layer: int, dtype: str, compiled: bool, log: Log = NULL) -> bool:
    """Return whether to train in FP8, as `--fp8` says ("auto", "on" or "off").

    Raises EnvironmentLacks, with the reason, if it was asked for and the device cannot, and ConfigError if it was
    asked for together with another precision than bf16.
    """
    if switch == "auto":
        return n_layer >= FP8_LEAST_LAYERS and compiled and dtype == "bf16" and fp8.lacking(device) is None
    if switch == "off":
        return False
    if (reason := fp8.lacking(device)) is not None:
        raise EnvironmentLacks(reason, hint="add --fp8 off")
    if dtype != "bf16":
        raise ConfigError(f"FP8 goes with bf16, not with precision: {dtype}", hint="add --precision bf16, or --fp8 off")
    if not compiled:
        log.warning("FP8 without compilation is several times slower than bf16")
    elif n_layer < FP8_LEAST_LAYERS:
        log.note(f"FP8 rarely gains below depth {FP8_LEAST_LAYERS}: {n_layer}")
    return True


class Scaler:
    """Loss scaling for fp16, whose smallest numbers are not small enough for gradients (arXiv 1710.03740).

    The loss is multiplied by a power of two and the gradients divided by it. If one overflows, on any process, all of
    them leave out the step and halve the scale; after 2,000 good steps in a row they double it. In other precisions
    the scale is 1 and nothing is looked at.
    """

    def __init__(self, precision: torch.dtype, log: Log = NULL) -> None:
        self.on = precision == torch.float16
        self.scale = _FIRST_SCALE if self.on else 1.0
        self.good_steps = self.skipped = 0
        self._log = log

    def accepts(self, grad_norm: float, step: int, last_saved: int | None = None) -> bool:
        """Take note of the norm of a step's gradients; return whether they can be used, else the step is left out.

        The norm is that over all processes, so that all of them find the same. Raises Diverged when gradients overflow
        even unscaled.
        """
        if not self.on:
            return True
        if not math.isfinite(grad_norm):
            self._halve(step, last_saved)
            return False
        self.good_steps += 1
        if self.good_steps == _GROWS_AFTER:
            self.scale, self.good_steps = min(2 * self.scale, _LARGEST_SCALE), 0
        return True

    def facts(self) -> dict[str, float]:
        """Return what a step's event tells about it; nothing in other precisions."""
        return {"loss_scale": self.scale, "skipped_steps": self.skipped} if self.on else {}

    def state(self) -> dict[str, float]:
        """Return what a resumed run needs to go on with the same scale."""
        return {"scale": self.scale, "good_steps": self.good_steps, "skipped": self.skipped} if self.on else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; an empty one, as other precisions save it, changes nothing."""
        if self.on and state:
            self.scale = float(state["scale"])
            self.good_steps, self.skipped = int(state["good_steps"]), int(state["skipped"])

    def _halve(self, step: int, last_saved: int | None) -> None:
        self.scale, self.good_steps = self.scale / 2, 0
        self.skipped += 1
        if self.scale < 1:
            kept = f"step {last_saved} is saved and good; " if last_saved is not None else ""
            raise Diverged(
                f"training diverged at step {step + 1}: gradients overflow fp16 at a loss scale of 1",
                hint=f"{kept}try lower learning rates or --precision fp32",
            )
        self._log.warning(f"step {step + 1} left out: a gradient overflowed fp16; loss scale now {self.scale:g}")
