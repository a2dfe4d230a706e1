"""From the options of base training to sizes in numbers, without a corpus or a tokenizer: for plans and benchmarks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nanochat_cli.core import devices, estimate, files, machine, pairing, paths, planning
from nanochat_cli.core.devices import Device
from nanochat_cli.core.estimate import GIB
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.settings import BaseTrainConfig

DEFAULT_VOCAB = 32_768
_ENOUGH_TOKENS = 65_536  # of one pass on a GPU: more do not make it faster


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a training runs on: `count` GPUs of one kind, or as many processes on a CPU."""

    name: str
    on_gpu: bool
    count: int
    memory_bytes: int
    """Of one GPU, or each process's share of a computer's memory; 0 where unknown."""
    device: Device | None
    """None for a CPU and for a GPU that our table lacks."""
    assumed: bool = False
    """Whether it is not this computer that is meant."""


def target(cfg: BaseTrainConfig, gpu: str | None = None) -> Target:
    """Return what to plan for: the GPU named, else what this computer has, else an H100 where GPUs are asked for.

    Raises ConfigError for a GPU that our table lacks.
    """
    here = machine.gpus()
    if gpu is not None:
        count = max(1, planning.num_gpus(cfg.compute))
        return _gpu(devices.named(gpu), count, assumed=True)
    count = planning.num_gpus(cfg.compute)
    if count and here:
        name, memory = here[0]["name"], int(here[0]["memory_gib"] * GIB)
        found = devices.find(name)
        return Target(name=name, on_gpu=True, count=count, memory_bytes=memory, device=found)
    if count:
        return _gpu(devices.named("h100"), count, assumed=True)
    procs = cfg.compute.procs
    return Target(
        name=machine.cpu_name(),
        on_gpu=False,
        count=procs,
        memory_bytes=machine.total_memory() // procs,
        device=None,
    )


def _gpu(device: Device, count: int, *, assumed: bool) -> Target:
    memory = int(device.memory_gib * GIB)
    return Target(name=device.title, on_gpu=True, count=count, memory_bytes=memory, device=device, assumed=assumed)


def corpus_at_hand(named: str | None) -> str | None:
    """Return the corpus that training would read: the one named, else the newest; None if there is none."""
    newest = None if named else paths.newest(paths.corpora_dir(), "manifest.json")
    return named or (newest.name if newest else None)


def tokenizer_at_hand(named: str | None, corpus: str | None) -> str | None:
    """Return the tokenizer that training would use: the one named, else as `pairing` finds one, if any."""
    return named if named is not None else pairing.tokenizer_for(corpus)


def sized(cfg: BaseTrainConfig, where: Target, vocab_size: int) -> tuple[BaseTrainConfig, ModelConfig]:
    """Return the config with context, batch and steps as numbers, and the network's shape.

    Rows per forward pass that are left open are as many as fit in the memory, if any do. Raises ConfigError for sizes
    that cannot work together.
    """
    gpus = where.count if where.on_gpu else 0
    procs = cfg.compute.procs if where.on_gpu else where.count
    cfg = planning.with_values(cfg, "compute", gpus=gpus, procs=procs)
    seq_len = cfg.model.max_seq_len or (planning.GPU_SEQ_LEN if where.on_gpu else planning.CPU_SEQ_LEN)
    cfg = planning.with_values(cfg, "model", max_seq_len=seq_len)
    net = planning.model_shape(cfg, vocab_size=vocab_size, max_seq_len=seq_len)
    left_open = cfg.batch.device_batch_size is None
    cfg = planning.by_scaling_rules(cfg, net)
    batch = cfg.batch
    rows = (batch.total_batch_size or 0) // (seq_len * where.count)
    if left_open and where.memory_bytes:
        most = estimate.largest_device_batch(net, where.memory_bytes, **memory_options(cfg, where))
        enough = batch.device_batch_size or max(1, _ENOUGH_TOKENS // seq_len)
        fitting = estimate.dividing_batch(min(most, enough), rows)
        batch = dataclasses.replace(batch, device_batch_size=fitting or 1)
    return dataclasses.replace(cfg, batch=batch), net


def memory_options(cfg: BaseTrainConfig, where: Target) -> dict[str, object]:
    """Return what `estimate.memory` needs to know beside the shape and the rows."""
    precision = cfg.compute.precision
    if precision == "auto":
        has_bf16 = where.on_gpu and (where.device is None or where.device.bf16_tflops is not None)
        precision = "bf16" if has_bf16 else "fp32"
    compiled = cfg.compute.compile == "on" or (cfg.compute.compile == "auto" and where.on_gpu)
    return {"world": where.count, "dtype": precision, "compiled": compiled, "on_gpu": where.on_gpu}


def vocabulary(cfg: BaseTrainConfig, given: int | None) -> tuple[int, str]:
    """Return the vocabulary size to plan with and where it comes from."""
    if given is not None:
        return given, "as given"
    name = tokenizer_at_hand(cfg.corpus.tokenizer, corpus_at_hand(cfg.corpus.data))
    if name is None:
        return DEFAULT_VOCAB, "assumed, as there is no tokenizer yet"
    return int(planning.tokenizer_facts(name)["vocab_size"]), f"of tokenizer {name}"


def trained_tokens(corpus: str, tokenizer_hash: str | None) -> int | None:
    """Return the tokens of a corpus's training split if it was tokenized before, else None."""
    if not tokenizer_hash:
        return None
    folder = paths.corpus_dir(corpus)
    for path in sorted((folder / "tokens").glob(f"{tokenizer_hash[:12]}*/manifest.json")):
        manifest = files.read_json(path, "the token manifest")
        text = files.read_json(folder / "manifest.json", "corpus manifest").get("fingerprint")
        if manifest.get("corpus_fingerprint", text) == text:  # one that grew may have older ones
            entries = manifest.get("splits", {}).get("train", [])
            return sum(int(entry["num_tokens"]) for entry in entries)
    return None
