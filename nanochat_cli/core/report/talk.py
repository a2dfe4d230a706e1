"""What the model said: samples of training, and graded answers, right and wrong ones."""

from __future__ import annotations

from typing import Any

from nanochat_cli.core.report.blocks import Block, Exchange, Exchanges, Folded
from nanochat_cli.core.report.gather import TITLES, RunRecord, StageRecord

MAX_FAMILIES, MAX_WRONG, MAX_SAMPLES = 12, 8, 8
LONGEST = 1200
"""Characters of one text that are shown; what is cut is marked."""


def exchanges(run: RunRecord) -> list[Block]:
    """Right answers of the last graded stage, then its mistakes, then samples of every stage."""
    blocks: list[Block] = []
    graded = next((stage for stage in reversed(run.stages) if stage.predictions), None)
    if graded is not None:
        right, wrong = _pick(graded, True, MAX_FAMILIES), _pick(graded, False, MAX_WRONG)
        blocks += [Exchanges(right)] if right else []
        blocks += [Folded(f"Some it got wrong ({len(wrong)})", [Exchanges(wrong)])] if wrong else []
    for stage in run.stages:
        if samples := _last_samples(stage):
            step = stage.of("sample")[-1].get("step")
            where = Folded(f"Samples after {TITLES[stage.name]}, step {step}", [Exchanges(samples)])
            blocks.append(where)
    return blocks


def _pick(stage: StageRecord, correct: bool, limit: int) -> list[Exchange]:
    """The first fitting answer of each family, in the order of the families; of held-out questions before others."""
    first: dict[str, dict[str, Any]] = {}
    for prediction in stage.predictions:
        if prediction.get("correct") is correct:
            first.setdefault(str(prediction.get("family")), prediction)
    return [_graded(prediction) for prediction in list(first.values())[:limit]]


def _graded(prediction: dict[str, Any]) -> Exchange:
    turns = [turn for turn in prediction.get("prompt") or [] if isinstance(turn, dict)]
    asked = [_plain(turn.get("content")) for turn in turns]
    named = [f"{turn.get('role', '?')}: {text}" for turn, text in zip(turns, asked, strict=True)]
    prompt = asked[0] if len(asked) == 1 else "\n".join(named)
    return Exchange(
        prompt=_short(prompt),
        reply=_short(str(prediction.get("reply", ""))),
        where=str(prediction.get("family", "")),
        verdict=bool(prediction.get("correct")),
        expected="" if prediction.get("correct") else _short(str(prediction.get("reference", ""))),
    )


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def _last_samples(stage: StageRecord) -> list[Exchange]:
    told = stage.of("sample")
    last = [event for event in told if event.get("step") == told[-1].get("step")]
    return [
        Exchange(prompt=_short(str(event.get("prompt", ""))), reply=_short(str(event.get("text", ""))))
        for event in last[:MAX_SAMPLES]
    ]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " […]"
