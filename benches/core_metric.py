"""Scoring CORE's questions in batches against one example per forward pass, side by side in one run.

    python benches/core_metric.py --bundle DIR [--limit 24] [--depth 4] [--vocab 8192] [--checkpoint RUN] [--json]

One by one is how the reference does it: each question in a forward pass of its own with its answers as rows, scores of
the whole vocabulary at every place. Batched is what `nanochat eval core` does. Both get the same token spans, in fp32,
and take turns task by task, so that whatever else the machine does hits both. Without a checkpoint the weights are
random, but not zero: every answer then depends on every token before it. The tokenizer is trained on the bundle's own
text. Tells for each task the times, their ratio, and whether the predictions are the same, question by question.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from nanochat_cli.core import checkpoint, machine
from nanochat_cli.core.eval import bundle, core_metric, icl, nets, scoring
from nanochat_cli.core.eval.scoring import Result, Span
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


def main() -> None:
    """Print a table, or one JSON object with --json."""
    args = parse()
    torch.set_num_threads(args.threads)
    found = bundle.open_bundle(args.bundle)
    model, tokenizer = subject(args, found)
    if not args.json:
        print(f"{'task':34}{'asked':>6}{'tokens':>8}{'single s':>10}{'batch s':>9}{'ratio':>7}{'other':>7}{'nats':>10}")
    rows = []
    for task in found.tasks:
        if not args.task or task.label in args.task:
            rows.append(measure(model, tokenizer, task, args))
            if not args.json:
                print(line(rows[-1]), flush=True)
    single, batched = (sum(row[key] for row in rows) for key in ("one_by_one_s", "batched_s"))
    whole = {
        "ratio": round(single / batched, 2),
        "ratio_whole_bundle": round(whole_bundle(rows, "one_by_one_s") / whole_bundle(rows, "batched_s"), 2),
        "one_by_one_s": round(single, 2),
        "batched_s": round(batched, 2),
        "questions": sum(row["questions"] for row in rows),
        "different_predictions": sum(row["different"] for row in rows),
        "largest_difference_nats": max(row["difference_nats"] for row in rows),
        "device": str(model.device),
        "threads": args.threads,
        "depth": model.config.n_layer,
        "vocab": model.config.vocab_size,
        "context": model.config.max_seq_len,
        "limit": args.limit,
    }
    if args.json:
        print(json.dumps(whole | {"tasks": rows}))
        return
    same = "identical" if not whole["different_predictions"] else f"{whole['different_predictions']} differ"
    print(f"all: {whole['ratio']} times as fast, {whole['questions']} predictions: {same}")
    print(f"every task weighed by all of its questions: {whole['ratio_whole_bundle']} times as fast")


def whole_bundle(rows: list[dict[str, Any]], key: str) -> float:
    """Return the seconds that all questions of these tasks would take at the measured pace."""
    return sum(row[key] / row["questions"] * row["all_questions"] for row in rows)


def line(row: dict[str, Any]) -> str:
    """Return a line of the table; `other` counts predictions that differ, `nats` is the most a loss differs by."""
    return (
        f"{row['task']:34}{row['questions']:6}{row['tokens']:8}{row['one_by_one_s']:10.2f}{row['batched_s']:9.2f}"
        f"{row['ratio']:7.1f}{row['different']:7}{row['difference_nats']:10.1e}"
    )


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the evaluation bundle")
    for name, value in {"limit": 24, "depth": 4, "vocab": 8192, "context": 2048}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--task", action="append", help="only this task; repeatable")
    parser.add_argument("--arch", default="nanochat")
    parser.add_argument("--checkpoint", help="score with the last base checkpoint of this run instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def subject(args: argparse.Namespace, found: bundle.Bundle) -> tuple[LanguageModel, Tokenizer]:
    """Return the model, in fp32, and its tokenizer."""
    if args.checkpoint:
        model, tokenizer, _ = checkpoint.load_model(checkpoint.find(args.checkpoint, "base", None), args.device)
        return model.eval(), tokenizer
    texts = [text for task in found.tasks for item in task.items(1000) for text in icl.prompts(task, item, ())]
    tokenizer = Tokenizer.train(texts, args.vocab)
    model = build(shape.from_depth(args.depth, args.vocab, args.context, arch=args.arch), device=args.device)
    generator = torch.Generator(device=args.device).manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():  # projections start at zero, and then nothing mixes
            if name == "head.weight" or (weight.dim() == 2 and not weight.any()):
                weight.normal_(0, 0.5 / weight.size(1) ** 0.5, generator=generator)
    return model.eval(), tokenizer


def measure(
    model: LanguageModel, tokenizer: Tokenizer, task: bundle.IclTask, args: argparse.Namespace
) -> dict[str, Any]:
    """Return times and differences of one task, both ways over the same spans."""
    net, codec = nets.OwnNet(model), nets.OwnCodec(tokenizer)
    asked = icl.questions(task, codec, args.limit, keep=False)
    spans = [[span.cropped(net.context) for span in question] for question in asked.spans]
    with torch.no_grad():  # a warm-up of both, on one question
        one_example(model, spans[0])
    list(scoring.score(net, spans[:1]))
    alone, single = timed(lambda: [one_example(model, question) for question in spans], args.device)
    together, batched = timed(lambda: dict(pair for batch in scoring.score(net, spans) for pair in batch), args.device)
    different, largest = 0, 0.0
    for i, results in enumerate(alone):
        other = together[i]
        told = [core_metric.judge(task, found, asked.gold[i], codec) for found in (results, other)]
        different += any(told[0].get(key) != told[1].get(key) for key in ("correct", "chosen", "said"))
        largest = max(largest, *(abs(a.mean - b.mean) for a, b in zip(results, other, strict=True)))
    return {
        "task": task.label,
        "questions": len(spans),
        "all_questions": len(task.items()),
        "tokens": sum(len(span.ids) for question in spans for span in question),
        "one_by_one_s": round(single, 4),
        "batched_s": round(batched, 4),
        "ratio": round(single / batched, 2),
        "different": different,
        "difference_nats": largest,
    }


def timed(work: Any, device: str) -> tuple[Any, float]:
    """Return what `work` returns, and its seconds."""
    began = time.perf_counter()
    found = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return found, time.perf_counter() - began


def one_example(model: LanguageModel, spans: list[Span]) -> list[Result]:
    """Score one question in one forward pass, its answers padded to rows, the vocabulary at every place."""
    longest = max(len(span.ids) for span in spans)
    idx_BT = torch.zeros(len(spans), longest, dtype=torch.int64)
    for row, span in enumerate(spans):
        idx_BT[row, : len(span.ids)] = torch.tensor(span.ids)
    idx_BT = idx_BT.to(model.device)
    with torch.no_grad():
        logits_BTV = model(idx_BT)
        nats_BT = torch.nn.functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1), idx_BT[:, 1:].flatten(), reduction="none"
        ).view(len(spans), -1)
        best_BT = logits_BTV.argmax(-1)
    found = []
    for row, span in enumerate(spans):
        part = slice(span.start - 1, len(span.ids) - 1)
        best = tuple(best_BT[row, part].tolist())
        nats = float(nats_BT[row, part].double().sum())
        found.append(Result(nats=nats, count=len(best), best=best, greedy=best == tuple(span.ids[span.start :])))
    return found


if __name__ == "__main__":
    main()
