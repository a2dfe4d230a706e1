"""A tokenizer in the formats of others: a rank file for tiktoken, `tokenizer.json` for Hugging Face tokenizers.

Both give the same ids for every text. Neither needs the other library to be written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from nanochat_cli.core import files
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.tokenizer.tokenizer import RANKS_FILE, SPECIALS, Tokenizer, ranks_text

Format = Literal["tiktoken", "hf"]
ENCODING_FILE, HF_FILE = "encoding.json", "tokenizer.json"


def write(tokenizer: Tokenizer, form: Format, folder: Path, *, replace: bool = False) -> list[Path]:
    """Write a tokenizer in a format of others into `folder` and return the files.

    Raises ConfigError if other files of these names are there, unless `replace`.
    """
    refuse_custom(tokenizer)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"a file stands where a folder is needed: {folder}", hint="name another with --out")
    files.make_dir(folder, "the exported tokenizer")
    if form == "tiktoken":
        written = {RANKS_FILE: ranks_text(tokenizer.ordinary), ENCODING_FILE: _as_json(tiktoken_encoding(tokenizer))}
    else:
        written = {HF_FILE: _as_json(hf_tokenizer(tokenizer))}
    for name, content in written.items():
        old = folder / name
        raw = content if isinstance(content, bytes) else content.encode()
        if old.exists() and not replace and old.read_bytes() != raw:
            raise ConfigError(
                f"another file is here already: {old}", hint="name another --out, or replace it with --force"
            )
    for name, content in written.items():
        files.write_atomic(folder / name, content)
    return [folder / name for name in written]


def refuse_custom(tokenizer: Tokenizer) -> None:
    """Raise ConfigError for a split pattern that other libraries may read in another way."""
    if not tokenizer.pattern.is_native:
        raise ConfigError(
            "a split pattern of its own has no equal in other libraries: their regular expressions differ",
            hint="train one with --pattern nanochat, gpt4, digit or gpt2",
        )


def tiktoken_encoding(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tiktoken.Encoding` wants besides the ranks: name, pattern, special tokens."""
    return {
        "name": f"nanochat-{tokenizer.hash[:12]}",
        "pat_str": tokenizer.pattern.regex,
        "special_tokens": special_tokens(tokenizer),
        "explicit_n_vocab": tokenizer.vocab_size,
        "ranks": RANKS_FILE,
    }


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The special tokens as others spell them, with their ids."""
    return {f"<|{name}|>": tokenizer.special(name) for name in SPECIALS}


def hf_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of `tokenizer.json`: a byte-level BPE model with the pattern as its pre-tokenizer."""
    spelled = [_spelled(token) for token in tokenizer.ordinary]
    specials = special_tokens(tokenizer)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for text, id in specials.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": tokenizer.pattern.regex},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: id for id, text in enumerate(spelled)},
            "merges": [[spelled[left], spelled[right]] for left, right in tokenizer.merges()],
        },
    }


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies, as introduced with GPT-2: printable ones for
    themselves, the others in order from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


_LETTERS = _byte_letters()


def _spelled(token: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in token)
