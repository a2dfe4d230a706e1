"""How `nanochat runs` shows what it found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nanochat_cli.core.run_state import StageInfo
from nanochat_cli.core.run_tags import Tag
from nanochat_cli.core.units import ago
from nanochat_cli.output import Output, size

if TYPE_CHECKING:
    from nanochat_cli.core.run_diff import Diff, Pairs
    from nanochat_cli.core.run_repair import Finding

_LONGEST = 60


def table(stages: Sequence[StageInfo], out: Output) -> None:
    """Show one line per stage."""
    rows = [
        (
            info.run,
            info.stage,
            "-" if info.step is None else f"{info.step:,}" + (f"/{info.num_steps:,}" if info.num_steps else ""),
            "-" if info.best_bpb is None else f"{info.best_bpb:.4f} @ {info.best_step:,}",
            _cut(info.status),
            str(info.parent) if info.parent else None,
            ", ".join(info.tags) or None,
            size(info.size_bytes),
            ago(info.updated) if info.updated else None,
        )
        for info in stages
    ]
    out.table(("run", "stage", "step", "best bpb", "status", "from", "tags", "size", "trained"), rows)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def tell_dangling(tags: Sequence[Tag], out: Output) -> None:
    """Warn of tags that point at nothing."""
    for tag in tags:
        if why := tag.dangling:
            out.warning(f"tag {tag.name} of {tag.target} points at nothing: {why}")


def tags(found: Sequence[Tag], out: Output) -> None:
    """Show all tags."""
    if out.json_mode:
        out.json([asdict(tag) | {"dangling": tag.dangling} for tag in found])
    elif found:
        rows = [(tag.name, tag.target, ago(tag.created), tag.dangling and f"dangling: {tag.dangling}") for tag in found]
        out.table(("tag", "checkpoint", "given", "state"), rows)
    else:
        out.note("no tag yet")
        out.hint("nanochat runs tag RUN NAME")


def run(details: Mapping[str, Any], stages: Sequence[StageInfo], out: Output) -> None:
    """Show everything about a run."""
    out.text(f"{details['run']}: {details['dir']}")
    machine = details.get("machine") or {}
    if machine:
        gpus = ", ".join(gpu.get("name", "") for gpu in machine.get("gpus") or ())
        out.text(f"  begun {ago(details.get('created'))} on {gpus or machine.get('cpu')}, {machine.get('system')}")
    table(stages, out)
    for info, facts in zip(stages, details["stages"], strict=True):
        _stage(info, facts, out)


def _stage(info: StageInfo, facts: Mapping[str, Any], out: Output) -> None:
    changed = ", ".join(f"{path}={value}" for path, value in facts["settings"].items()) or "all at their defaults"
    parent = f"{info.parent}{'' if info.parent.present else ' (no longer there)'}" if info.parent else None
    data, tokenizer = facts.get("data") or {}, facts.get("tokenizer") or {}
    lines = [
        ("started with", facts["command"]),
        ("status", info.status),
        ("from", parent),
        ("data", str(data.get("fingerprint", ""))[:12] or None),
        ("tokenizer", f"{str(tokenizer.get('hash', ''))[:12]}, {tokenizer.get('vocab_size', 0):,} tokens")
        if tokenizer
        else ("tokenizer", None),
        ("made with", facts.get("version") and f"nanochat {facts['version']}, torch {facts.get('torch')}"),
        ("result", _result(facts.get("result"))),
        ("settings", changed),
    ]
    out.text(f"\n{info.stage}")
    for name, text in lines:
        if text:
            out.text(f"  {name:<13} {text}")
    for text in facts["warnings"]:
        out.text(f"  {'warned':<13} {text}")
    rows = [_checkpoint(saved) for saved in facts["checkpoints"]]
    if rows:
        out.table(("  step", "size", "saved", "kept as", "verified")[: len(rows[0])], rows)
    else:
        out.text("  no checkpoint")
    for left in facts["left"]:
        name = f"{info.run}/{info.stage}/{left['name']}"
        out.text(f"  {'set aside':<13} {left['name']}, {size(left['size_bytes'])}: nanochat runs rm {name}")


def _result(result: Mapping[str, Any] | None) -> str | None:
    shown = (result or {}).items()
    return ", ".join(f"{k} {v:.6g}" for k, v in shown if isinstance(v, int | float)) or None


def _checkpoint(saved: Mapping[str, Any]) -> tuple[Any, ...]:
    kept = [word for word in ("permanent", "best") if saved[word]] + [f"tag {tag}" for tag in saved["tags"]]
    row = (f"  {saved['step']:,}", size(saved["size_bytes"]), ago(saved["created"]), ", ".join(kept) or None)
    return (*row, saved["damage"] or "yes") if "damage" in saved else row


def diff_tree(found: "Diff") -> dict[str, Any]:
    """Return a comparison as plain values."""

    def tree(pairs: "Pairs") -> dict[str, Any]:
        return {name: {"a": a, "b": b} for name, (a, b) in pairs.items()}

    stages = [
        {
            "a": str(stage.left),
            "b": str(stage.right),
            "settings": tree(stage.settings),
            "made_with": tree(stage.made_with),
            "results": tree(stage.results),
        }
        for stage in found.stages
    ]
    return {"stages": stages, "only_a": found.only_left, "only_b": found.only_right}


def diff(found: "Diff", out: Output) -> None:
    """Show a comparison, stage by stage."""
    for stage in found.stages:
        names = (str(stage.left), str(stage.right))
        out.text(f"{names[0]} and {names[1]}")
        for title, pairs in (
            ("setting", stage.settings),
            ("made with", stage.made_with),
            ("result", stage.results),
        ):
            rows = [(f"  {name}", _value(a), _value(b)) for name, (a, b) in pairs.items()]
            if rows:
                out.table((f"  {title}", *names), rows)
            else:
                out.text(f"  {title}: no difference")
    for name, only in (("the first", found.only_left), ("the second", found.only_right)):
        if only:
            out.text(f"only in {name}: {', '.join(only)}")


def _value(value: Any) -> Any:
    text = str(value)
    is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:12] if is_hash else f"{value:.6g}" if isinstance(value, float) else value


def findings(found: "Sequence[Finding]", names: Sequence[str], out: Output, *, dry_run: bool) -> None:
    """Show what a repair found and did."""
    if out.json_mode:
        out.json([asdict(finding) for finding in found])
        return
    for finding in found:
        would = "would be " if dry_run and finding.repaired and finding.action != "left alone" else ""
        out.text(f"{finding.path}: {finding.problem}: {would}{finding.action}")
    runs = f"{len(names)} run{'s' if len(names) != 1 else ''}"
    count = sum(finding.action != "left alone" or not finding.repaired for finding in found)
    out.note(f"{runs} looked through: " + (f"{count} to repair" if count else "all in order"))
