"""What a chat stage would train on: sources, epochs, and how long their conversations are."""

from typing import Any, cast

from nanochat_cli.core import files, launch, runs
from nanochat_cli.core.settings import MidTrainConfig
from nanochat_cli.output import Output


def of(job: launch.Plan) -> dict[str, Any]:
    """Return the mixture of a planned stage in numbers, lengths measured on a sample with the model's own tokenizer."""
    from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
    from nanochat_cli.core.train import mixture

    cfg = cast(MidTrainConfig, job.config)
    source = cfg.source
    origin = runs.stage_dir(source.run or "", source.source or "") / f"step-{source.step or 0:06d}"
    seq_len = files.read_json(origin / "config.json", "the checkpoint's config")["model"]["max_seq_len"]
    tokenizer = Tokenizer.load(origin / "tokenizer")
    found = mixture.overview(cfg.chats.data, cfg.chats.task, tokenizer, seq_len, cfg.compute.seed)
    per_step = cfg.batch.total_batch_size or 1
    steps = cfg.horizon.num_iterations or max(1, round(found.tokens * cfg.horizon.num_epochs / per_step))
    return {**vars(found), "steps": steps, "epochs": round(steps * per_step / max(1, found.tokens), 3)}


def show(found: dict[str, Any], out: Output) -> None:
    """Show a line for each source, and what it comes to."""
    columns = ("source", "there are", "an epoch", "mean tokens", "95 % up to", "longer than context")
    rows = [
        (
            row["source"],
            f"{row['here']:,}",
            f"{row['per_epoch']:,}",
            f"{row['mean_tokens']:,.0f}",
            f"{row['p95_tokens']:,}",
            f"{row['longer_share']:.1%}",
        )
        for row in found["sources"]
    ]
    out.table(columns, rows, title="conversations, with lengths of a sample")
    out.text(
        f"{found['conversations']:,} conversations an epoch, about {found['tokens']:,} tokens in a context of "
        f"{found['max_seq_len']:,}; about {found['steps']:,} steps, {found['epochs']:.2g} epochs"
    )
