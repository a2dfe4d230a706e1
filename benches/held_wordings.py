"""Which sentences that were never trained on a run understands: whole ones, and phrases in frames, by family.

Usage: python benches/held_wordings.py RUN [--stage rl] [--worst 5]
Reads what `nanochat eval` wrote about the run, so that it costs no time.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict

from nanochat_cli.core import runs
from nanochat_cli.core.data.tinyworld.asking import capital
from nanochat_cli.core.data.tinyworld.wordings import KINDS, wordings

# Families whose questions have another name, or several.
KINDS_OF = {"add": ["add"], "sub": ["sub"], "next": ["number-after", "number-before"], "choice": ["add-three"]}
SLOT = {"a": r"\d+", "b": r"\d+", "c": r"\d+", "n": r"\w+", "l": r"\w", "o": r"\w+", "p": r"\w+", "s": r"\w+"}


def kinds_of(family: str) -> list[str]:
    """Kinds of wordings that a family's questions may have."""
    whole, _, part = family.partition("/")
    if whole == "story":
        return [part.split("-")[0] if part != "nothing" else "what"]
    if whole == "facts":
        return [kind for kind in KINDS if kind.startswith("fact-")]
    return [whole] if whole in KINDS else KINDS_OF.get(whole.split("-")[0], [])


def pattern(wording: str) -> re.Pattern[str]:
    """What a question in this wording looks like; a story may stand before it."""
    parts = re.split(r"\{(\w)\}", capital(wording))
    return re.compile("".join(SLOT.get(p, ".+") if at % 2 else re.escape(p) for at, p in enumerate(parts)) + "$")


def main() -> None:
    """Print, for each family, right answers to held whole sentences and to held framed phrases, and the worst ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--stage", default="rl")
    parser.add_argument("--worst", type=int, default=3)
    args = parser.parse_args()
    patterns = {kind: [(wording, pattern(wording)) for wording in wordings(kind).held] for kind in KINDS}
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    path = runs.stage_dir(args.run, "eval") / f"{args.stage}.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["split"] != "held-wording":
            continue
        asked = record["prompt"][-1]["content"]
        for kind in kinds_of(record["family"]):
            if wording := next((w for w, p in patterns[kind] if p.search(asked)), None):
                sort = "whole" if wording in KINDS[kind].whole else "framed"
                for key in (sort, wording):
                    counts[record["family"]][key][0] += record["correct"]
                    counts[record["family"]][key][1] += 1
                break
    for family, found in counts.items():
        shown = [f"{sort} {found[sort][0]}/{found[sort][1]}" for sort in ("whole", "framed") if sort in found]
        print(f"{family:18} {'  '.join(shown)}")
        wrong = [(r / n, w, r, n) for w, (r, n) in found.items() if w not in ("whole", "framed") and r < n]
        for _, wording, right, total in sorted(wrong)[: args.worst]:
            print(f"    {right}/{total}  {wording}")


if __name__ == "__main__":
    main()
