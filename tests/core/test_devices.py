"""Devices are told apart by the names that drivers print, and MFU is counted against the right peak."""

from __future__ import annotations

import pytest

from nanochat_cli.core import devices
from nanochat_cli.core.errors import ConfigError


@pytest.mark.parametrize(
    ("printed", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "6000-ada"),
        ("NVIDIA GeForce RTX 3090", "3090"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA GeForce RTX 5090", "5090"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("Tesla V100-PCIE-16GB", "v100-pcie"),
        ("Tesla T4", "t4"),
    ],
)
def test_a_driver_s_name_is_known(printed: str, name: str) -> None:
    found = devices.find(printed)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "printed",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H20",
        "NVIDIA A10-24Q",
        "NVIDIA T400",
        "AMD Instinct MI300X",
        "AMD EPYC",
        "",
    ],
)
def test_what_is_made_differently_is_not_known(printed: str) -> None:
    assert devices.find(printed) is None


def test_short_names_are_unique_and_each_finds_itself() -> None:
    assert len(set(devices.names())) == len(devices.names())
    for device in devices.DEVICES:
        assert devices.named(device.name) is device
    assert devices.named("NVIDIA H200").name == "h200"
    with pytest.raises(ConfigError, match="h1000") as caught:
        devices.named("h1000")
    assert "h200" in (caught.value.hint or "")


def test_peaks_are_the_dense_ones() -> None:
    peaks = {name: devices.named(name).peak_tflops for name in ("h100", "h200", "a100", "3090", "4090", "5090", "v100")}
    assert peaks == {"h100": 989, "h200": 989, "a100": 312, "3090": 71, "4090": 165.2, "5090": 209.5, "v100": 125}
    assert devices.named("h100").fp8_tflops == 1979
    assert devices.named("a100").fp8_tflops is None
    assert devices.named("v100").bf16_tflops is devices.named("t4").bf16_tflops is None


def test_the_table_is_consistent() -> None:
    for device in devices.DEVICES:
        assert (device.fp8_tflops is not None) == (device.capability >= (8, 9)), device.name
        assert (device.bf16_tflops is not None) == (device.capability >= (8, 0)), device.name
        if device.fp8_tflops is not None:
            assert device.fp8_tflops == pytest.approx(2 * device.peak_tflops, rel=0.02), device.name
        assert 10 < device.memory_gib < 300
        assert 0 < device.usd_per_hour < 20


def test_mfu_of_public_runs() -> None:
    """24 layers on 8 H100 in FP8: 984,000 tokens/s were published as 59.4 %; 12 layers on one: 546,000 as 41.9 %."""
    h100 = devices.find("NVIDIA H100 80GB HBM3")
    assert devices.mfu(4.777e9, 984_000, h100, 8) == pytest.approx(0.594, abs=0.001)
    assert devices.mfu(7.60e8, 546_000, h100) == pytest.approx(0.419, abs=0.001)
    assert devices.mfu(7.60e8, 546_000, devices.find("AMD EPYC")) is None
    assert devices.mfu(7.60e8, 546_000, h100, 0) is None
