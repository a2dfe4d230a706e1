"""What to type when a corpus that was made here is damaged: the command that makes it again."""

from __future__ import annotations

import shlex
from typing import Any

from nanochat_cli.core.data import corpus as corpora
from nanochat_cli.core.data import tokens
from nanochat_cli.core.data.corpus import TOKENS, Corpus
from nanochat_cli.core.errors import DamagedArtifact
from nanochat_cli.core.events import NULL, Log


def check(name: str, log: Log = NULL) -> None:
    """Check a corpus. Raises DamagedArtifact whose hint is the command that makes it, or its tokens, again."""
    corpus = Corpus.open(name)
    bad = [found for found in corpus.check(log) + tokens.check(corpus, log) if found.problem]
    if bad:
        problem = corpora.damaged(corpus, bad)
        only_tokens = all(found.file.startswith(f"{TOKENS}/") for found in bad)
        raise DamagedArtifact(str(problem), hint=problem.hint if only_tokens else command(corpus))


def command(corpus: Corpus) -> str:
    """Return how a corpus is made again, as it is typed, as far as its manifest tells."""
    source: dict[str, Any] = corpus.manifest.get("source") or {}
    name = shlex.quote(corpus.name)
    if source.get("kind") == "generated":
        chats = max((file.conversations for file in corpus.chat_files), default=0)
        seed, documents = source.get("seed", 0), source.get("documents", 0)
        return f"nanochat data synth --name {name} --documents {documents} --chats {chats} --seed {seed} --force"
    listed = source.get("files")
    given = listed if isinstance(listed, list) else []
    named = [str(file.get("path", file.get("name", ""))) if isinstance(file, dict) else str(file) for file in given]
    shown = " ".join(shlex.quote(path) for path in named[:5] if path) or "FILES…"
    return f"nanochat data add {shown}{' …' if len(named) > 5 else ''} --name {name} --force"
