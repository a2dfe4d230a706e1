"""Checkpoints: a model, its optimizer, its tokenizer and everything needed to go on, in one verified folder.

Tensors are safetensors and the rest is JSON, so that loading a checkpoint never runs code from it.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanochat_cli.core import files, stepdirs
from nanochat_cli.core.errors import DamagedArtifact, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models import build as models
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.stepdirs import find
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

__all__ = ["Loaded", "Meta", "check_tokenizer", "find", "load", "load_model", "save"]

WEIGHTS = "model.safetensors"
OPTIM = "optim.safetensors"
_OS_ERROR = re.compile(r"os error (\d+)")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A verified checkpoint in memory; tensors are on the CPU."""

    step: int
    path: Path
    weights: dict[str, Tensor]
    optim: dict[str, Tensor]
    config: dict[str, Any]
    state: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a loaded model is: where it comes from and how it was made. `hash` is the SHA-256 of its weights file."""

    run: str
    stage: str
    step: int
    path: Path
    hash: str
    config: dict[str, Any]
    state: dict[str, Any]

    def as_parent(self) -> dict[str, Any]:
        """Return what a later stage records about the model it started from."""
        return {"run": self.run, "stage": self.stage, "step": self.step, "weights_sha256": self.hash}


def save(
    stage_dir: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    optim: Mapping[str, Tensor],
    config: Mapping[str, Any],
    state: Mapping[str, Any],
    tokenizer: Tokenizer,
    keep_last: int = 2,
    log: Log = NULL,
) -> Path:
    """Write the checkpoint of `step` and return its folder; then delete all but the last `keep_last`.

    Whatever happens on the way (kill, full disk), the stage holds its earlier checkpoints and possibly this one, whole.
    Raises NanochatError with one clear line. Call it from one process only.
    """
    stepdirs.require_space(stage_dir, sum(t.nbytes for t in (*weights.values(), *optim.values())) + 1_000_000)
    final = stepdirs.step_dir(stage_dir, step)
    with files.explain_os_errors(f"checkpoint of step {step}"):
        stage_dir.mkdir(parents=True, exist_ok=True)
        files.sweep_staging(stage_dir)
        staged = files.staging_dir(final)
        try:
            _write_tensors(staged / WEIGHTS, weights)
            _write_tensors(staged / OPTIM, optim)
            files.write_json(staged / "config.json", dict(config))
            files.write_json(staged / "state.json", {"step": step, **state})
            tokenizer.save(staged / "tokenizer")
            stepdirs.seal(staged, step=step, tokenizer_hash=tokenizer.hash)
            stepdirs.publish(staged, final)
        finally:
            shutil.rmtree(staged, ignore_errors=True)  # gone already, unless something failed
        log.emit("saved", step=step, path=str(final), bytes=files.tree_size(final))
        stepdirs.prune(stage_dir, step, keep_last)
    return final


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in name order, so that equal contents make equal files."""
    flat = {name: tensors[name].detach().to("cpu").contiguous() for name in sorted(tensors)}
    try:
        save_file(flat, path, metadata={"format": "pt"})
    except SafetensorError as problem:  # the native writer wraps what the system said
        code = _OS_ERROR.search(str(problem))
        raise OSError(int(code[1]) if code else errno.EIO, str(problem), str(path)) from problem


def load(stage_dir: Path, step: int | None = None, log: Log = NULL) -> Loaded:
    """Return the checkpoint of `step`, or the newest that verifies; a warning says what was passed over and why."""
    path = stepdirs.newest_good(stage_dir, step, log)
    return Loaded(
        step=stepdirs.step_of(path),
        path=path,
        weights=_read_tensors(path / WEIGHTS),
        optim=_read_tensors(path / OPTIM),
        config=files.read_json(path / "config.json", "checkpoint config"),
        state=files.read_json(path / "state.json", "checkpoint state"),
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, FileNotFoundError) as problem:
        raise DamagedArtifact(f"checkpoint tensors cannot be read: {path}") from problem


def load_model(
    path: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> tuple[LanguageModel, Tokenizer, Meta]:
    """Return the model of a step folder, ready to use on `device`, its tokenizer and what it is.

    `dtype` None keeps the saved one. Raises DamagedArtifact if a file, the tokenizer or a shape does not fit.
    """
    manifest = stepdirs.verify(path, skip=(OPTIM,))
    config = files.read_json(path / "config.json", "checkpoint config")
    tokenizer = Tokenizer.load(path / "tokenizer")
    check_tokenizer(tokenizer, config, path)
    model = models.build(model_config(config, path))
    try:
        model.load_state_dict(_read_tensors(path / WEIGHTS))
    except RuntimeError as problem:
        raise DamagedArtifact(f"weights do not fit the checkpoint's own config: {path}") from problem
    meta = Meta(
        run=path.parent.parent.name,
        stage=path.parent.name,
        step=stepdirs.step_of(path),
        path=path,
        hash=manifest["files"][WEIGHTS]["sha256"],
        config=config,
        state=files.read_json(path / "state.json", "checkpoint state"),
    )
    return model.to(device=device, dtype=dtype), tokenizer, meta


def model_config(config: Mapping[str, Any], path: Path) -> ModelConfig:
    """Return the network's shape from a checkpoint's config. Raises DamagedArtifact if there is none."""
    shape = config.get("model")
    if not isinstance(shape, dict):
        raise DamagedArtifact(f"checkpoint has no model config: {path / 'config.json'}")
    return ModelConfig.from_dict(shape)


def check_tokenizer(tokenizer: Tokenizer, config: Mapping[str, Any], path: Path) -> None:
    """Raise NanochatError if `tokenizer` is not the one that the checkpoint was trained with."""
    if tokenizer.hash != config.get("tokenizer", {}).get("hash"):
        raise wrong_tokenizer(tokenizer.hash, config, path)


def wrong_tokenizer(found: str, config: Mapping[str, Any], path: Path) -> NanochatError:
    """Return the error for a tokenizer, given by its hash, that a checkpoint was not trained with."""
    expected = str(config.get("tokenizer", {}).get("hash"))
    return NanochatError(
        f"tokenizer {found[:12]} is not the one this checkpoint was trained with ({expected[:12]}): {path}",
        hint="use the tokenizer it was trained with, or train into a new run",
    )
