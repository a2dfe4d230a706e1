"""Sizes of a base training in words, for `nanochat plan` and `nanochat train base --dry-run`."""

from typing import Any

from nanochat_cli.core.scaling import MAX_EPOCHS
from nanochat_cli.core.units import many
from nanochat_cli.output import Output

GROUPS = {
    "matrices": "block matrices",
    "head": "head",
    "embedding": "embedding",
    "value_embeds": "value embeddings",
    "scalars": "scalars and gates",
}
"""The groups of `shape.ParamCounts` in words."""

_SHORT = {"value_embedding": "value embedding", "unembedding": "head", "skip": "embedding in each block"}


def network(model: dict[str, Any]) -> str:
    """Return a network in one line."""
    window = f", windows {model['window_pattern']}" if "S" in model["window_pattern"] else ""
    heads = many(model["n_head"], "head")
    shared = "" if model["n_kv_head"] == model["n_head"] else f" ({model['n_kv_head']} for keys and values)"
    return (
        f"{model['arch']}, depth {model['n_layer']}: width {model['n_embd']:,}, {heads}{shared}, "
        f"vocabulary {model['vocab_size']:,}, context {model['max_seq_len']:,}{window}"
    )


def horizon(training: dict[str, Any]) -> str:
    """Return how long a training is in one line."""
    ratio = f"{training['tokens_per_scaling_parameter']:g} for each matrix and head parameter"
    return f"{big(training['tokens'])} in {many(training['steps'], 'step')}, {ratio}"


def batch(training: dict[str, Any], world: int) -> str:
    """Return how a step is cut in one line."""
    pieces, rows = training["grad_accum_steps"], many(training["device_batch_size"], "row")
    each = f" on each of {world:,} processes" if world > 1 else ""
    often = "once" if pieces == 1 else f"{pieces:,} times"
    return f"{training['total_batch_size']:,} tokens a step: {rows} at a time{each}, {often}"


def corpus(held: dict[str, Any] | None) -> str:
    """Return how often a corpus would be read in one line."""
    if held is None:
        return "none yet"
    often = ": so often teaches little, get more text" if held["epochs"] > MAX_EPOCHS else ""
    about = "about " if held["estimated"] else ""
    times = many(held["epochs"], "time", form=",.2g")
    return f"{held['name']}, {about}{big(held['tokens'])} tokens, read {times}{often}"


def show_derived(found: dict[str, Any], world: int, out: Output) -> None:
    """Show what `plan.derived` found, a line for each thing."""
    params, training, optim = found["parameters"], found["training"], found["optimizer"]
    groups = ", ".join(f"{label} {params[key]:,}" for key, label in GROUPS.items() if params[key])
    rates = ", ".join(f"{_SHORT.get(role, role)} {rate:.3g}" for role, rate in optim["rates"].items())
    scales = f"x {optim['batch_scale']:.3g} for the batch, tables x {optim['width_scale']:.3g} for the width"
    ramps = f"{many(optim['warmup_steps'], 'step')} up, the last {optim['warmdown_steps']:,} down to"
    decay = f"{optim['weight_decay']:.4g}, {optim['decay_shape']}" if optim["weight_decay"] else "none"
    pairs(
        [
            ("network", network(found["model"])),
            ("parameters", f"{params['total']:,}: {groups}"),
            ("tokens", horizon(training)),
            ("corpus", corpus(found["corpus"])),
            ("batch", batch(training, world)),
            ("compute", f"{training['flops_per_token']:.3g} FLOPs a token, {training['flops']:.3g} in all"),
            ("peak rates", rates),
            ("", f"({scales})"),
            ("schedule", f"{ramps} {optim['final_lr_frac']:.0%} of the rates"),
            ("momentum", optim["momentum"]),
            ("weight decay", decay),
            ("gradient norm", f"at most {optim['grad_clip']:g}" if optim["grad_clip"] else "not clipped"),
        ],
        out,
    )


def pairs(rows: list[tuple[str, str]], out: Output) -> None:
    """Show names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        out.text(f"{name:<{width}}  {value}")


def big(number: float) -> str:
    """Return a number in words from a million on."""
    for limit, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= limit:
            return f"{number / limit:,.3g} {word}"
    return f"{number:,.0f}"
