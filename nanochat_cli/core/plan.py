"""What a base training would need, before any of it exists: parameters, compute, data, disk, memory, hours and cost.

And what follows from a config that is settled already: `derived`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from nanochat_cli.core import estimate, horizon, machine, pace, paths, placement, planning, scaling, sizing
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.errors import ConfigError, EnvironmentLacks, NanochatError
from nanochat_cli.core.estimate import GIB
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.settings import BaseTrainConfig, PlanConfig
from nanochat_cli.core.sizing import Target
from nanochat_cli.core.train import schedule

SHARD_CHARS, SHARD_BYTES = 250_000_000, 100_000_000
"""A shard of the public pretraining corpora: its characters, and its size as a compressed file."""
_CHARS_AT_64K, _CHARS_PER_DOUBLING = 4.8, 0.3
_CROPPED = 0.35
"""Share of the tokens that a packing drops which crops documents; the other one drops none."""


def make(cfg: PlanConfig, typed: Iterable[str] = ()) -> dict[str, Any]:
    """Return the plan as plain values, ready for JSON; sizes are in bytes unless the name says otherwise.

    `typed` holds the paths of the options given on the command line. Raises ConfigError for sizes that do not fit
    together, and MissingArtifact for a corpus or tokenizer that was named and is not there.
    """
    cfg = horizon.as_typed(cfg, typed)
    where = sizing.target(cfg, cfg.plan.gpu)
    vocab, vocab_source = sizing.vocabulary(cfg, cfg.plan.vocab)
    sized, net = sizing.sized(cfg, where, vocab)
    steps = planning.num_iterations(sized, net)
    tokens = steps * (sized.batch.total_batch_size or 0)
    counts = shape.count_params(net)
    plan: dict[str, Any] = {
        "model": dataclasses.asdict(net),
        "parameters": _parameters(counts),
        "training": _training(sized, where.count, net, steps, tokens),
        "data": (data := _data(cfg, vocab, tokens)),
        "disk": _disk(cfg, counts, data, vocab),
        "device": _device(where),
        "memory": _memory(sized, where, net),
        "time": _time(cfg, sized, where, net, tokens),
    }
    plan["assumptions"] = _assumptions(plan, where, vocab, vocab_source)
    slow = pace.warning(sized, net, plan["time"]["tokens_per_s"]) if not where.on_gpu else None
    plan["warnings"] = [*_warnings(plan, cfg, where), *([slow] if slow else [])]
    return plan


def derived(cfg: BaseTrainConfig) -> dict[str, Any]:
    """Return what follows from a config that planning has settled, as plain values: sizes, batch, rates, schedule.

    The learning rates are the peaks that the optimizer gets, with what batch and width do to them. Raises
    MissingArtifact if the tokenizer is not there.
    """
    vocab = planning.tokenizer_facts(cfg.corpus.tokenizer or "")["vocab_size"]
    net = planning.model_shape(cfg, vocab_size=vocab, max_seq_len=cfg.model.max_seq_len or 0)
    steps, batch = planning.num_iterations(cfg, net), cfg.batch.total_batch_size or 0
    curves, optim = schedule.plan(steps, cfg.optim), cfg.optim
    return {
        "model": dataclasses.asdict(net),
        "parameters": _parameters(shape.count_params(net)),
        "training": _training(cfg, placement.world(cfg), net, steps, steps * batch),
        "corpus": _corpus_if_it_opens(cfg, vocab, steps * batch),
        "optimizer": {
            "rates": _peak_rates(cfg, net, batch),
            "batch_scale": scaling.rate_scale(batch) if optim.batch_scaling else 1.0,
            "width_scale": scaling.table_rate_scale(net.n_embd),
            "weight_decay": curves.decay,
            "decay_shape": curves.decay_shape,
            "warmup_steps": curves.warmup,
            "warmdown_steps": curves.warmdown,
            "final_lr_frac": curves.floor,
            "momentum": " to ".join(f"{curves.momentum(at):.2f}" for at in _turns(curves)),
            "grad_clip": optim.grad_clip,
        },
    }


def _turns(curves: schedule.Schedule) -> list[int]:
    """The steps between which Muon's momentum moves in one direction."""
    ramp = min(curves.momentum_ramp, curves.num_steps // 3)
    return [0, ramp, curves.num_steps] if curves.momentum_end is not None else [0, ramp]


def _peak_rates(cfg: BaseTrainConfig, net: ModelConfig, batch: int) -> dict[str, float]:
    """The peak rate of each group that the network has, by the group's role."""
    optim = cfg.optim
    by_batch = optim.init_lr_frac * (scaling.rate_scale(batch) if optim.batch_scaling else 1.0)
    scalars = optim.init_lr_frac * scaling.rate_scale(batch)
    by_width = by_batch * scaling.table_rate_scale(net.n_embd)
    rates = {
        "matrix": optim.matrix_lr * by_batch,
        "embedding": optim.embedding_lr * by_width,
        "unembedding": optim.unembedding_lr * by_width,
    }
    if net.value_embeds_every:
        rates["value_embedding"] = optim.value_embedding_lr * by_width
    if net.residual_scalars:
        rates |= {"residual": optim.residual_lr * scalars, "skip": optim.skip_lr * scalars}
    if net.smear or net.backout:
        # As published, these take the same step whatever the batch; but see `stage.optimizer_of`.
        rates["gate"] = optim.gate_lr * (optim.init_lr_frac if optim.batch_scaling else scalars)
    return rates


def _parameters(counts: shape.ParamCounts) -> dict[str, int]:
    return {**dataclasses.asdict(counts), "total": counts.total, "scaling": counts.scaling}


def _training(cfg: Any, world: int, net: ModelConfig, steps: int, tokens: int) -> dict[str, Any]:
    flops, batch = shape.flops_per_token(net), cfg.batch
    return {
        "steps": steps,
        "tokens": tokens,
        "tokens_per_scaling_parameter": round(tokens / shape.count_params(net).scaling, 2),
        "total_batch_size": batch.total_batch_size,
        "device_batch_size": batch.device_batch_size,
        "grad_accum_steps": batch.total_batch_size // (batch.device_batch_size * net.max_seq_len * world),
        "flops_per_token": flops,
        "flops": flops * tokens,
    }


def _device(where: Target) -> dict[str, Any]:
    device = where.device
    return {
        "name": where.name,
        "kind": "gpu" if where.on_gpu else "cpu",
        "count": where.count,
        "assumed": where.assumed,
        "memory_bytes": where.memory_bytes,
        "peak_tflops": device.peak_tflops if device else None,
        "capability": list(device.capability) if device else None,
    }


# ---- data and disk ---------------------------------------------------------------------------------------------------


def chars_per_token(vocab_size: int) -> float:
    """Return about how many characters of English a token stands for: 4.8 at 65,536, and 0.3 less for each half."""
    return max(1.0, _CHARS_AT_64K + _CHARS_PER_DOUBLING * math.log2(vocab_size / 65_536))


def _data(cfg: PlanConfig, vocab: int, tokens: int) -> dict[str, Any]:
    per_token, dropped = chars_per_token(vocab), _CROPPED * (getattr(cfg.corpus, "packing", "whole") == "crop")
    read = round(tokens / (1 - dropped))
    return {
        "tokens": read,
        "dropped": dropped,
        "chars_per_token": round(per_token, 2),
        "characters": round(read * per_token),
        "shards": math.ceil(read * per_token / SHARD_CHARS) + 1,  # the last one is kept for validation
        "corpus": _corpus(cfg, vocab, read),
    }


def _corpus(cfg: PlanConfig | BaseTrainConfig, vocab: int, tokens: int) -> dict[str, Any] | None:
    """The corpus that training would read, in tokens: counted if it was tokenized, else estimated from its text."""
    name = sizing.corpus_at_hand(cfg.corpus.data)
    if name is None:
        return None
    corpus = Corpus.open(name)
    tokenizer = sizing.tokenizer_at_hand(cfg.corpus.tokenizer, name)
    facts = planning.tokenizer_facts(tokenizer) if tokenizer else {}
    same = facts.get("vocab_size") == vocab
    counted = sizing.trained_tokens(name, facts.get("hash")) if same else None
    held = counted or max(1, round(corpus.num_chars("train") / chars_per_token(vocab)))
    return {
        "name": name,
        "tokens": held,
        "estimated": counted is None,
        "epochs": tokens / held,
        "characters": corpus.num_chars("train"),
    }


def _corpus_if_it_opens(cfg: BaseTrainConfig, vocab: int, tokens: int) -> dict[str, Any] | None:
    """The same for a dry run, which leaves it to the run to complain of a damaged corpus."""
    try:
        return _corpus(cfg, vocab, tokens)
    except NanochatError:
        return None


def _disk(cfg: PlanConfig, counts: shape.ParamCounts, data: dict[str, Any], vocab: int) -> dict[str, Any]:
    """Room for text, tokens and checkpoints; a checkpoint holds fp32 weights and the optimizer's whole state."""
    checkpoint = 4 * counts.total + estimate.optimizer_bytes(counts)
    parts = {
        "shards": data["shards"] * SHARD_BYTES,
        "tokens": data["tokens"] * (2 if vocab <= 1 << 16 else 4),
        "checkpoints": (cfg.save.keep_last + 1) * checkpoint,  # the newest is whole before the oldest goes
    }
    return {**parts, "total": sum(parts.values()), "checkpoint": checkpoint}


def slow_steps(cfg: BaseTrainConfig) -> str | None:
    """Return what to tell of a settled config whose batch makes steps take minutes here, else None."""
    vocab, _ = sizing.vocabulary(cfg, None)
    net = planning.model_shape(cfg, vocab_size=vocab, max_seq_len=cfg.model.max_seq_len or 0)
    return pace.warning(cfg, net)


def refuse_what_cannot_fit(cfg: BaseTrainConfig, asked: BaseTrainConfig) -> None:
    """Raise EnvironmentLacks, with the memory by part, if not even one row at a time can be trained here.

    `cfg` is `asked` with every size settled by planning.
    """
    where = sizing.target(cfg)
    vocab, _ = sizing.vocabulary(cfg, None)
    net = planning.model_shape(cfg, vocab_size=vocab, max_seq_len=cfg.model.max_seq_len or 0)
    options = sizing.memory_options(cfg, where)
    limit = where.memory_bytes
    if not limit or estimate.largest_device_batch(net, limit, **options):
        return
    need = estimate.memory(net, device_batch_size=1, **options)  # type: ignore[arg-type]
    parts = sorted(((name, size) for name, size in dataclasses.asdict(need).items()), key=lambda part: -part[1])
    shown = ", ".join(f"{name.replace('_', ' ')} {size / GIB:.1f}" for name, size in parts if size > need.total // 20)
    one_row = planning.with_values(dataclasses.replace(cfg, model=asked.model), "batch", device_batch_size=1)
    raise EnvironmentLacks(
        f"depth {net.n_layer} does not fit: about {need.total / GIB:.1f} GiB for each process with one row at a time "
        f"({shown}), and {where.name} has {estimate.usable(limit) / GIB:.1f} to use",
        hint=f"{' or '.join(_what_helps(one_row, where, net, need))}; nanochat plan tells more",
    )


# ---- memory ----------------------------------------------------------------------------------------------------------


def _memory(cfg: Any, where: Target, net: ModelConfig) -> dict[str, Any]:
    options = sizing.memory_options(cfg, where)
    need = estimate.memory(net, device_batch_size=cfg.batch.device_batch_size, **options)  # type: ignore[arg-type]
    limit = where.memory_bytes
    fits = not limit or need.total <= estimate.usable(limit)
    return {
        "parts": dataclasses.asdict(need),
        "total": need.total,
        "limit": limit,
        "usable": int(estimate.usable(limit)),
        "fits": fits,
        "largest_part": need.largest,
        "largest_device_batch": estimate.largest_device_batch(net, limit, **options) if limit else None,
        "precision": options["dtype"],
        "help": [] if fits else _what_helps(cfg, where, net, need),
    }


def _what_helps(cfg: Any, where: Target, net: ModelConfig, need: estimate.Memory) -> list[str]:
    """What would make it fit, cheapest first. Not empty."""
    options = sizing.memory_options(cfg, where)
    most = estimate.largest_device_batch(net, where.memory_bytes, **options)
    rows = cfg.batch.total_batch_size // (net.max_seq_len * where.count)
    found = []
    if most:
        found.append(f"--device-batch-size {estimate.dividing_batch(most, rows)}")
        return found
    if where.on_gpu and need.optimizer > need.total // 20:
        for count in (2, 4, 8, 16):
            wider = {**options, "world": count}
            if count > where.count and estimate.largest_device_batch(net, where.memory_bytes, **wider):
                found.append(f"--gpus {count}, which share the optimizer's state")
                break
    deepest = _deepest(cfg, where, net)
    if deepest:
        found.append(f"--depth {deepest}, the deepest that fits")
    if where.on_gpu:
        found.append("a GPU with more memory, such as --gpu h200 or --gpu b300")
    return found or ["a computer with more memory"]


def _deepest(cfg: Any, where: Target, net: ModelConfig) -> int | None:
    """The largest depth below this one that fits with one row per forward pass, other sizes left as they are."""
    for depth in range(net.n_layer - 1, 0, -1):
        smaller = planning.with_values(cfg, "model", depth=depth)
        try:
            config = planning.model_shape(smaller, vocab_size=net.vocab_size, max_seq_len=net.max_seq_len)
        except ConfigError:
            continue
        if estimate.largest_device_batch(config, where.memory_bytes, **sizing.memory_options(cfg, where)):
            return depth
    return None


# ---- time ------------------------------------------------------------------------------------------------------------


def _time(cfg: PlanConfig, sized: Any, where: Target, net: ModelConfig, tokens: int) -> dict[str, Any]:
    """Hours and dollars, from an assumed MFU or from a speed that was measured here; None for what cannot be told."""
    flops, device = shape.flops_per_token(net), where.device
    fp8 = estimate.uses_fp8(cfg.compute.fp8, net.n_layer, device)
    told: dict[str, Any] = {"fp8": fp8, "mfu": None, "source": None, "tokens_per_s": None}
    if device is not None:
        assumed = estimate.assumed_mfu(net.n_layer, device, fp8=fp8)
        if cfg.plan.mfu is not None:
            assumed = estimate.Assumed(cfg.plan.mfu, "as given")
        speed = estimate.tokens_per_s(flops, device, where.count, assumed.mfu)
        told |= {"mfu": assumed.mfu, "source": assumed.source, "tokens_per_s": speed}
    elif speed := _measured(sized, where, net):
        told |= {"source": "measured here before", "tokens_per_s": speed * where.count}
    price = cfg.plan.price if cfg.plan.price is not None else device.usd_per_hour if device else None
    hours = tokens / told["tokens_per_s"] / 3600 if told["tokens_per_s"] else None
    cost = hours * price * where.count if hours is not None and price is not None else None
    return {**told, "hours": hours, "usd_per_gpu_hour": price, "usd": cost}


def _measured(cfg: Any, where: Target, net: ModelConfig) -> float | None:
    """The best speed in tokens per second of one process that the start-up measurement remembers for this shape."""
    cache = paths.cache_dir() / "probe.json"
    if not cache.is_file():
        return None
    import torch  # only here: nothing else in a plan waits for it

    from nanochat_cli.core.train import probe

    if where.on_gpu and not torch.cuda.is_available():
        return None
    speeds = probe.remembered(
        net,
        device_batch_size=cfg.batch.device_batch_size,
        threads=cfg.compute.threads or max(1, machine.physical_cores() // where.count),
        cache_path=cache,
        device=torch.device("cuda", 0) if where.on_gpu else torch.device("cpu"),
    )
    return max(speeds.values(), default=None)


# ---- what to tell beside the figures ---------------------------------------------------------------------------------


def _assumptions(plan: dict[str, Any], where: Target, vocab: int, vocab_source: str) -> list[str]:
    time, data = plan["time"], plan["data"]
    found = [f"vocabulary of {vocab:,} tokens ({vocab_source})"]
    if where.assumed:
        found.append(f"{where.count} x {where.name}, which need not be what is in this computer")
    if time["mfu"] is not None:
        form = "FP8" if time["fp8"] else plan["memory"]["precision"]
        found.append(
            f"MFU {100 * time['mfu']:.1f} % in {form} of {where.device.peak_tflops:,g} TFLOP/s per GPU"  # type: ignore[union-attr]
            f" ({time['source']}); change it with --mfu"
        )
    if time["usd"] is not None:
        found.append(f"${time['usd_per_gpu_hour']:.2f} for a GPU-hour (prices differ); change it with --price")
    if time["hours"] is not None:
        found.append("hours are those of training alone: no download, tokenizing, evaluation or compiling")
    found += [
        f"{data['chars_per_token']:g} characters in a token, as in English text",
        f"shards of {SHARD_CHARS // 10**6} million characters in {SHARD_BYTES // 10**6} MB, read once; "
        f"{data['dropped']:.0%} of the tokens dropped by the packing",
        "attention that writes no scores, logits in parts, optimizer state shared over the processes",
        f"{estimate.HEADROOM:.0%} of the memory left free, as the allocator cannot use every gap",
    ]
    return found


def _warnings(plan: dict[str, Any], cfg: PlanConfig, where: Target) -> list[str]:
    memory, corpus, found = plan["memory"], plan["data"]["corpus"], []
    if not memory["fits"]:
        part = memory["parts"][memory["largest_part"]]
        found.append(
            f"does not fit: {memory['total'] / GIB:.1f} GiB needed of {memory['usable'] / GIB:.1f} usable, "
            f"most of it for {memory['largest_part'].replace('_', ' ')} ({part / GIB:.1f}); "
            f"what helps: {' or '.join(memory['help'])}"
        )
    if corpus is not None and corpus["epochs"] > scaling.MAX_EPOCHS:
        found.append(
            f"corpus {corpus['name']} would be read {corpus['epochs']:.1f} times; beyond {scaling.MAX_EPOCHS} passes "
            f"more text teaches more: get {plan['data']['characters'] / 1e9:,.1f} billion characters, or train for less"
        )
    if plan["time"]["tokens_per_s"] is None:
        found.append(
            f"no time can be told for {where.name}; measure it: nanochat bench train --depth {cfg.model.depth}"
        )
    return found
