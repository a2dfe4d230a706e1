"""Slow, plain references that the native tokenizer is compared with, and text that is hard to cut."""

from __future__ import annotations

import itertools
from collections import Counter

import tiktoken
from hypothesis import strategies as st

from nanochat_cli.core.tokenizer.patterns import Pattern
from nanochat_cli.core.tokenizer.tokenizer import SPECIALS, Tokenizer

# What the split pattern treats apart: contractions, all kinds of blanks, digits of three scripts, marks, emoji, CJK.
HOT = (
    "'sdmtlverSDMTLVER \t\r\n\x0b\x85\u00a0\u2028\u3000"
    "ſK019٣½Ⅷab_.!?-’e\u0301\u200b\u200d😀👩🏽é中文한ß\x00\x7f\U0010ffff"
)
texts = st.text(st.one_of(st.sampled_from(HOT), st.characters(exclude_categories=["Cs"])), max_size=60)


def naive_tokens(words: Counter[bytes], num_merges: int) -> list[bytes]:
    """Tokens by byte-pair training that counts every pair anew before each merge."""
    tokens = [bytes([b]) for b in range(256)]
    parts = {word: list(word) for word in words}
    for _ in range(num_merges):
        counts: Counter[tuple[int, int]] = Counter()
        for word, ids in parts.items():
            for pair in itertools.pairwise(ids):
                counts[pair] += words[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        tokens.append(tokens[best[0]] + tokens[best[1]])
        parts = {word: _joined(ids, best, len(tokens) - 1) for word, ids in parts.items()}
    return tokens


def _joined(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    out: list[int] = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def tiktoken_twin(tokenizer: Tokenizer) -> tiktoken.Encoding:
    """A tiktoken encoding with the same tokens, pattern and specials."""
    ranks = {tokenizer.id_to_bytes(id): id for id in range(tokenizer.vocab_size - len(SPECIALS))}
    specials = {f"<|{name}|>": tokenizer.special(name) for name in SPECIALS}
    return tiktoken.Encoding("twin", pat_str=tokenizer.pattern.regex, mergeable_ranks=ranks, special_tokens=specials)


def tiktoken_pieces(text: str, pattern: Pattern) -> list[str]:
    """`text` as tiktoken's own regex engine cuts it: with every substring as a token, each piece comes back whole."""
    data = text.encode()
    spans = {data[i:j] for i in range(len(data)) for j in range(i + 1, len(data) + 1)} | {
        bytes([b]) for b in range(256)
    }
    ranks = {span: rank for rank, span in enumerate(sorted(spans, key=lambda span: (len(span), span)))}
    probe = tiktoken.Encoding("probe", pat_str=pattern.regex, mergeable_ranks=ranks, special_tokens={})
    return [probe.decode_single_token_bytes(id).decode() for id in probe.encode_ordinary(text)]
