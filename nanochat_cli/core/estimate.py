"""How much memory and time a training will take, from sizes alone. Needs no torch, and nothing is measured.

The activations follow what the backward pass has to keep of each operation (see `activation_channels`); a public log of
the modern recipe (24 layers, 16 rows of 2,048 tokens on each of 8 H100, all logits held) says 52.9 GB where these
formulas, with that loss, say 49.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from nanochat_cli.core.devices import Device
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.shape import MLP_RATIO, ModelConfig, ParamCounts

GIB = 1024**3
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_KEPT_LOGITS, _CHUNK_LOGITS, _SWEEP = 1 << 29, 1 << 28, 1 << 26
"""Bytes of logits that the loss keeps for its backward pass; of a chunk where they are more, and are made twice; and of
the wide numbers that a sweep over a chunk takes at a time. They are those of `models/loss.py`, which needs torch."""
_RUNTIME_BYTES = 1 << 30
"""Kernels, library workspaces and communication buffers of one process on a GPU."""
HEADROOM = 0.10
"""Share of the memory left free: the allocator cannot use every gap, and this is an estimate."""

# ---- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one process needs, by what they are for. The sum is the peak, in the first backward pass of a step."""

    weights: int
    """fp32, whole on every process."""
    gradients: int
    """fp32, whole on every process: they are added up locally over the micro-batches of a step."""
    optimizer: int
    """fp32: Muon's momentum (one number a weight), AdamW's moments (two), divided over the processes."""
    cast_weights: int
    """Copies of the multiplied weights in the dtype of the arithmetic."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    loss: int
    """Logits and their gradient, of a part of the tokens where they are many; the gradients of head and stream."""
    backward: int
    """Gradients inside the layer that is being differentiated."""
    runtime: int
    """Kernels and buffers of the libraries."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    @property
    def largest(self) -> str:
        """The name of the largest part."""
        parts = asdict(self)
        return max(parts, key=lambda name: parts[name])


def memory(
    config: ModelConfig,
    *,
    device_batch_size: int,
    world: int = 1,
    dtype: str = "bf16",
    compiled: bool = True,
    sharded: bool = True,
    on_gpu: bool = True,
) -> Memory:
    """Return the memory of one of `world` processes that trains this shape, `device_batch_size` rows at a time.

    Assumes an attention kernel that does not write its scores, a loss over parts of the tokens, and no recomputation
    of blocks. `sharded`: each process holds its share of the optimizer's state, else all of it.
    """
    counts, width = shape.count_params(config), BYTES[dtype]
    tokens = device_batch_size * config.max_seq_len
    state = optimizer_bytes(counts)
    return Memory(
        weights=4 * counts.total,
        gradients=4 * counts.total,
        optimizer=-(-state // world) if sharded else state,
        cast_weights=width * counts.scaling if width < 4 else 0,
        activations=tokens * (width * _kept_channels(config, compiled, width) + 4 * config.n_layer * config.n_head),
        loss=_loss_bytes(config, tokens, width),
        backward=tokens * width * (2 * MLP_RATIO + 2) * config.n_embd,
        runtime=_RUNTIME_BYTES if on_gpu else 0,
    )


def optimizer_bytes(counts: ParamCounts) -> int:
    """Return the size of the optimizer's whole state: one fp32 number for a matrix weight, two for any other."""
    return 4 * counts.matrices + 8 * (counts.total - counts.matrices)


def _loss_bytes(config: ModelConfig, tokens: int, width: int) -> int:
    """Logits are bounded, whatever the batch; the head's gradient is summed apart before it joins the others."""
    logits = tokens * config.vocab_size * width
    held = 2 * logits if logits <= _KEPT_LOGITS else _CHUNK_LOGITS
    ends = 4 * config.padded_vocab_size * config.n_embd + tokens * config.n_embd * width
    return held + min(3 * _SWEEP, 3 * 4 * tokens * config.vocab_size) + ends


def activation_channels(config: ModelConfig, layer: int, *, compiled: bool, half: bool = True) -> int:
    """Return how many numbers per token one block keeps for its backward pass.

    Compiled code keeps what a matrix product or the attention wrote and recomputes the rest: the residual stream before
    attention and before the MLP (C each), queries and keys before their norm, queries, keys and values as attention
    reads them, its output, and the MLP's inner layer before its activation (4 C). That is 12 C where every head has its
    own keys. Eager code also keeps the results of norms, queries and keys after their rotation, and the squared
    activation; in `half` precision its norms keep their inputs in fp32, which counts double.
    """
    heads, shared, per_head = config.n_head, config.n_kv_head, config.head_dim
    attention = (2 * (heads + shared) + shared + heads) * per_head
    extra = shared * per_head * config.has_value_embed(layer)
    kept = (2 + MLP_RATIO) * config.n_embd + attention + extra
    if compiled:
        return kept
    rotated = (heads + shared) * per_head
    kept += (2 + MLP_RATIO + config.residual_scalars) * config.n_embd + rotated
    return kept + half * (2 * config.n_embd + rotated)


def _kept_channels(config: ModelConfig, compiled: bool, width: int) -> int:
    """All blocks, and at both ends the embedding, its mixed form and the stream before and after the last norm."""
    layers = range(config.n_layer)
    blocks = sum(activation_channels(config, layer, compiled=compiled, half=width < 4) for layer in layers)
    return blocks + (3 + config.smear) * config.n_embd


def usable(memory_bytes: float) -> float:
    """Return how much of a device's memory a training can count on."""
    return (1 - HEADROOM) * memory_bytes


def largest_device_batch(config: ModelConfig, memory_bytes: float, **how: object) -> int:
    """Return the most rows per forward pass that fit in a device's memory, headroom left free; 0 if not even one.

    `how` is passed to `memory`.
    """

    def fits(rows: int) -> bool:
        return memory(config, device_batch_size=rows, **how).total <= usable(memory_bytes)  # type: ignore[arg-type]

    if not fits(1):
        return 0
    least, most = 1, 2
    while fits(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least


def dividing_batch(most: int, rows: int) -> int:
    """Return the largest number of rows, at most `most`, that divides the `rows` of a process per step; 0 if none."""
    return max((n for n in range(1, min(most, rows) + 1) if rows % n == 0), default=0)


# ---- time ------------------------------------------------------------------------------------------------------------

Points = Mapping[int, float]
# Depth -> MFU that others measured with this recipe or its forerunner, against the dense half-precision peak.
_HOPPER: Points = {8: 0.40, 12: 0.42, 16: 0.45, 20: 0.47, 24: 0.50, 26: 0.49, 32: 0.51}
_HOPPER_FP8: Points = {12: 0.37, 16: 0.47, 20: 0.52, 24: 0.60, 26: 0.58}
_A100: Points = {14: 0.51, 20: 0.66}
_GEFORCE: Points = {12: 0.49, 20: 0.66}
_BLACKWELL: Points = {20: 0.31}
_GUESS: Points = {12: 0.30}
FP8_FROM_DEPTH = 20
FP8_FROM_CAPABILITY = (8, 9)


@dataclass(frozen=True)
class Assumed:
    """An MFU that is assumed, and on what ground."""

    mfu: float
    source: str


def assumed_mfu(depth: int, device: Device, *, fp8: bool = False) -> Assumed:
    """Return the share of its peak that a device will probably reach at a depth, from public runs of such models.

    Between measured depths it is interpolated, outside them the nearest one counts.
    """
    points, source = _figures(device, fp8)
    if fp8 and device.capability != (9, 0):
        source += "; FP8 may be faster"
    return Assumed(round(_interpolated(points, depth), 3), source)


def _figures(device: Device, fp8: bool) -> tuple[Points, str]:
    if device.capability == (9, 0):
        return (_HOPPER_FP8, "public FP8 runs on H100") if fp8 else (_HOPPER, "public bf16 runs on H100")
    if device.capability == (8, 0):
        return _A100, "public bf16 runs on A100, of a model without windows"
    if device.capability[0] == 10:
        return _BLACKWELL, "one public run on B200"
    if device.capability in ((8, 6), (8, 9), (12, 0)):
        return _GEFORCE, "public bf16 runs on RTX 3090"
    return _GUESS, "a guess: no public run is known"


def _interpolated(points: Points, at: float) -> float:
    known = sorted(points)
    if at <= known[0] or at >= known[-1]:
        return points[known[0] if at <= known[0] else known[-1]]
    right = next(i for i, depth in enumerate(known) if depth >= at)
    low, high = known[right - 1], known[right]
    return points[low] + (points[high] - points[low]) * (at - low) / (high - low)


def uses_fp8(switch: str, depth: int, device: Device | None) -> bool:
    """Return whether training a depth on a device computes in FP8: as switched, else where it pays."""
    if device is None or device.fp8_tflops is None or switch == "off":
        return False
    return switch == "on" or (depth >= FP8_FROM_DEPTH and device.capability >= FP8_FROM_CAPABILITY)


def tokens_per_s(flops_per_token: float, device: Device, gpus: int, mfu: float) -> float:
    """Return the speed of training at an MFU."""
    return device.peak_tflops * 1e12 * gpus * mfu / flops_per_token
