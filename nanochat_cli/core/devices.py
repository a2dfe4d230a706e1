"""Accelerators by name: what they can compute at most, what they hold, and what an hour of one costs.

Figures are dense ones (no sparsity), for half-precision products that are summed in fp32, as training needs them; on
GeForce cards that is half of what fp16 sums would give. Sources, all NVIDIA's: data sheets of V100, T4, A10, A100, L4,
L40/L40S, H100, H200, GH200, HGX B200/B300, GB200, RTX A6000 and RTX 6000 Ada; the architecture papers of GA102, AD102
and RTX Blackwell for the GeForce cards. A10G has no public sheet; its figure is the one that its users quote (Baseten,
2023). Memory is about what a program can have of it, which is less than the number on the box.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nanochat_cli.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Device:
    """One kind of accelerator. TFLOP/s are 1e12 operations a second; None where the hardware lacks the format."""

    name: str
    title: str
    pattern: str
    """What its name contains as the driver prints it, as a regular expression for lower case."""
    bf16_tflops: float | None
    fp16_tflops: float
    fp8_tflops: float | None
    memory_gib: float
    bandwidth_gb_s: float
    capability: tuple[int, int]
    usd_per_hour: float
    """What one is rented for, roughly: an assumption, as prices differ by seller and by month."""

    @property
    def peak_tflops(self) -> float:
        """The peak that MFU is counted against: bf16, or fp16 where there is no bf16. The same for FP8 training."""
        return self.bf16_tflops or self.fp16_tflops


def _device(
    name: str,
    title: str,
    pattern: str,
    half: float,
    fp8: float | None,
    memory: float,
    bandwidth: float,
    capability: tuple[int, int],
    usd: float,
) -> Device:
    return Device(
        name=name,
        title=title,
        pattern=pattern,
        bf16_tflops=half if capability >= (8, 0) else None,
        fp16_tflops=half,
        fp8_tflops=fp8,
        memory_gib=memory,
        bandwidth_gb_s=bandwidth,
        capability=capability,
        usd_per_hour=usd,
    )


# The first pattern that is found decides, so a special form comes before the plain name.
DEVICES: tuple[Device, ...] = (
    _device("h100-pcie", "H100 PCIe", r"\bh100\b.*(\bpcie|\bhbm2e)", 756.0, 1513.0, 79.6, 2000, (9, 0), 2.50),
    _device("h100-nvl", "H100 NVL", r"\bh100 nvl\b", 835.0, 1671.0, 93.1, 3900, (9, 0), 2.80),
    _device("h100", "H100 SXM", r"\bh100\b", 989.0, 1979.0, 79.6, 3350, (9, 0), 3.00),
    _device("h200-nvl", "H200 NVL", r"\bh200 nvl\b", 835.0, 1671.0, 140.4, 4800, (9, 0), 3.30),
    _device("gh200", "GH200", r"\bgh200\b", 989.0, 1979.0, 95.0, 4000, (9, 0), 2.00),
    _device("h200", "H200 SXM", r"\bh200\b", 989.0, 1979.0, 140.4, 4800, (9, 0), 3.50),
    _device("b200", "B200", r"\bb200\b", 2250.0, 4500.0, 179.0, 7700, (10, 0), 5.50),
    _device("gb200", "GB200", r"\bgb200\b", 2500.0, 5000.0, 185.0, 8000, (10, 0), 6.50),
    _device("b300", "B300", r"\bb300\b", 2250.0, 4500.0, 268.0, 8000, (10, 3), 7.00),
    _device("a100-40gb", "A100 40 GB", r"\ba100\b.*\b40gb", 312.0, None, 39.5, 1555, (8, 0), 1.30),
    _device("a100", "A100 80 GB", r"\ba100\b.*\b80gb", 312.0, None, 79.3, 2039, (8, 0), 1.80),
    _device("a10g", "A10G", r"\ba10g$", 70.0, None, 22.1, 600, (8, 6), 1.00),
    _device("a10", "A10", r"\ba10$", 125.0, None, 22.1, 600, (8, 6), 0.75),
    _device("l40s", "L40S", r"\bl40s$", 362.0, 733.0, 44.5, 864, (8, 9), 1.50),
    _device("l40", "L40", r"\bl40$", 181.0, 362.0, 44.5, 864, (8, 9), 1.00),
    _device("l4", "L4", r"\bl4$", 121.0, 242.0, 22.1, 300, (8, 9), 0.70),
    _device("a6000", "RTX A6000", r"\brtx a6000\b", 154.8, None, 47.5, 768, (8, 6), 0.60),
    _device("6000-ada", "RTX 6000 Ada", r"\brtx 6000 ada\b", 364.2, 728.5, 47.5, 960, (8, 9), 0.85),
    _device("5090", "GeForce RTX 5090", r"\brtx 5090$", 209.5, 419.0, 31.4, 1792, (12, 0), 0.70),
    _device("4090", "GeForce RTX 4090", r"\brtx 4090$", 165.2, 330.3, 23.6, 1008, (8, 9), 0.40),
    _device("3090", "GeForce RTX 3090", r"\brtx 3090$", 71.0, None, 23.6, 936, (8, 6), 0.22),
    _device("v100-pcie", "V100 PCIe", r"\bv100-pcie", 112.0, None, 15.8, 900, (7, 0), 0.50),
    _device("v100-32gb", "V100 32 GB", r"\bv100-sxm.*\b32gb", 125.0, None, 31.7, 900, (7, 0), 0.60),
    _device("v100", "V100 16 GB", r"\bv100-sxm.*\b16gb", 125.0, None, 15.8, 900, (7, 0), 0.55),
    _device("t4", "T4", r"\bt4$", 65.0, None, 14.6, 320, (7, 5), 0.35),
)


def find(name: str) -> Device | None:
    """Return the device that a driver's name stands for ("NVIDIA H100 80GB HBM3"), or None if it is not known.

    A card of a different make-up, such as a laptop's RTX 4090 or a slice of an H100 (MIG), is not known.
    """
    text = name.lower().strip()
    if re.search(r"\bmig\b|laptop|max-q|\bmobile\b", text):
        return None
    return next((device for device in DEVICES if re.search(device.pattern, text)), None)


def named(name: str) -> Device:
    """Return the device of a short name (`h100`), or of a driver's name. Raises ConfigError that lists them all."""
    short = name.lower().strip()
    found = next((device for device in DEVICES if device.name == short), None) or find(name)
    if found is None:
        raise ConfigError(f"no such GPU in our table: {name}", hint=f"choose one of: {', '.join(names())}")
    return found


def names() -> list[str]:
    """Return all short names."""
    return [device.name for device in DEVICES]


MFU_FORMULA = "FLOPs per token x tokens per second / (peak FLOP/s of one GPU x GPUs)"


def mfu(flops_per_token: float, tokens_per_s: float, device: Device | None, gpus: int = 1) -> float | None:
    """Return the share of the devices' peak that training uses (model FLOPs utilisation), None for an unknown device.

    The peak is the dense half-precision one, for FP8 training, too, so that figures can be compared.
    Source: PaLM, arXiv 2204.02311, appendix B.
    """
    if device is None or gpus < 1:
        return None
    return flops_per_token * tokens_per_s / (device.peak_tflops * 1e12 * gpus)
