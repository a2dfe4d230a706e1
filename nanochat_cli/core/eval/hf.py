"""A transformers model from a folder, scored like one of our own, to compare with. Nothing is fetched or executed.

Tensor suffixes as in `nets`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_cli.core import files
from nanochat_cli.core.errors import DamagedArtifact, EnvironmentLacks

_LIMITS = ("n_positions", "max_position_embeddings", "n_ctx", "max_sequence_length")
_DEFAULT_CONTEXT = 2048
_WEIGHTS = "*.safetensors"
_SCORES = 1 << 29
"""Most numbers of a table of scores over all positions, where a model gives no other: 1 GiB in bf16."""
_TRIAL = 8
"""Tokens on which a model's two halves are compared with the whole."""


class HfNet:
    """A causal model of transformers. It scores whole rows: what a beginning may share differs from model to model."""

    shares = False

    def __init__(self, model: Any) -> None:
        self.model = model
        told = (getattr(model.config, name, None) for name in _LIMITS)
        self._context = next((int(value) for value in told if value), _DEFAULT_CONTEXT)
        self._split = self._can_be_split()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        return self._context

    @property
    def most_tokens(self) -> int | None:
        if self._split:
            return None
        vocabulary = getattr(self.model.config, "vocab_size", None) or self._trial().size(-1)
        return max(1, _SCORES // vocabulary)

    def read(self, idx_BT: Tensor) -> Tensor:
        # Padding is on the right and attention is causal, so no mask is needed, and no padding token either.
        if self._split:
            return self.model.base_model(input_ids=idx_BT, use_cache=False).last_hidden_state
        return self.model(input_ids=idx_BT, use_cache=False).logits

    def after(self, beginnings: Sequence[Sequence[int]], owner_B: Tensor, idx_BT: Tensor) -> Tensor:
        raise NotImplementedError("beginnings are not shared")

    def logits(self, x_NE: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(x_NE).float() if self._split else x_NE.float()

    @torch.no_grad()
    def _can_be_split(self) -> bool:
        """Whether its output layer behind its body says what the whole says: some models scale or cap in between."""
        body, head = getattr(self.model, "base_model", None), getattr(self.model, "get_output_embeddings", None)
        if body is None or body is self.model or head is None or head() is None:
            return False
        hidden = getattr(body(input_ids=self._ids(), use_cache=False), "last_hidden_state", None)
        if hidden is None:
            return False
        whole, apart = self._trial().float(), head()(hidden).float()
        return whole.shape == apart.shape and torch.allclose(whole, apart, rtol=1e-3, atol=1e-3 * float(whole.std()))

    def _trial(self) -> Tensor:
        with torch.no_grad():
            return self.model(input_ids=self._ids(), use_cache=False).logits

    def _ids(self) -> Tensor:
        return torch.arange(1, _TRIAL + 1, device=self.device)[None]


class HfCodec:
    """A tokenizer of transformers. `bos` is what the model saw between texts: its BOS, else its end-of-text token."""

    def __init__(self, tokenizer: Any, hash: str) -> None:
        self.tokenizer, self._hash = tokenizer, hash

    @property
    def hash(self) -> str:
        return self._hash

    @property
    def bos(self) -> int | None:
        found = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if found is None else found

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        # Truncation and padding stay off, and a text is never read as special tokens of its own accord.
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids))


def load(folder: Path, device: torch.device, precision: str) -> tuple[HfNet, HfCodec, str]:
    """The model and tokenizer of a folder, and a hash of the weights.

    Only safetensors are read, and no code of the folder is run. Raises EnvironmentLacks without transformers,
    DamagedArtifact if the folder cannot be loaded.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as problem:
        raise EnvironmentLacks(
            "comparing with a transformers model needs the package transformers",
            hint='install it with: uv pip install "nanochat[eval]"',
        ) from problem
    weights = sorted(folder.glob(_WEIGHTS))
    if not weights:
        raise DamagedArtifact(f"the model has no weights as safetensors, the only form that is read: {folder}")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as problem:
        first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise DamagedArtifact(f"transformers cannot load the model in {folder}: {first}") from problem
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    described = {path.name: files.sha256_file(path) for path in sorted(folder.glob("*")) if _describes_text(path)}
    hash = files.sha256_json({path.name: files.sha256_file(path) for path in weights})
    net = HfNet(model.to(device=device, dtype=dtype).eval())
    return net, HfCodec(tokenizer, files.sha256_json(described)), hash


def _describes_text(path: Path) -> bool:
    """Whether a file decides how text becomes tokens."""
    return path.is_file() and ("token" in path.name or path.name in ("vocab.json", "merges.txt", "spiece.model"))
