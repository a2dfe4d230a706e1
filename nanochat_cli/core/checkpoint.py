"""Checkpoints: a model, its optimizer, its tokenizer and everything needed to go on, in one verified folder.

Tensors are safetensors and the rest is JSON, so that loading a checkpoint never runs code from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nanochat_cli import __version__
from nanochat_cli.core import files, slices, snapshot, stepdirs, unsafe
from nanochat_cli.core.errors import DamagedArtifact, NanochatError, NewerVersion
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models import build as models
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.shape import ModelConfig
from nanochat_cli.core.stepdirs import OPTIM, WEIGHTS, Keep, find
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

__all__ = ["Loaded", "Meta", "check_tokenizer", "find", "load", "load_model", "save"]


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
    """What a loaded model is: where it comes from and how it was made. `hash` is the SHA-256 of its weights file.

    `created`: when it was saved, in seconds since 1970 by the clock of then; None if it does not say.
    """

    run: str
    stage: str
    step: int
    path: Path
    hash: str
    config: dict[str, Any]
    state: dict[str, Any]
    created: float | None = None

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
    """Write the checkpoint of `step` at once and return its folder; then delete all but the last `keep_last`.

    Whatever happens on the way (kill, full disk), the stage holds its earlier checkpoints and possibly this one, whole.
    Raises NanochatError with one clear line. Training saves through `train.saver`, beside its steps.
    """
    snap = snapshot.Snapshot(
        step=step,
        weights=weights,
        optim=slices.whole(optim),
        record=config,
        state=state,
        tokenizer=tokenizer,
    )
    staged = snapshot.begin(stage_dir, step, snap.nbytes)
    try:
        final = snapshot.publish(snap, staged, snapshot.write_part(snap, staged), Keep(last=keep_last))
    finally:
        snapshot.drop(staged)  # gone already, unless something failed
    log.emit("saved", step=step, path=str(final), bytes=files.tree_size(final))
    return final


def load(stage_dir: Path, step: int | None = None, log: Log = NULL, *, at_most: int | None = None) -> Loaded:
    """Return the checkpoint of `step`, or the newest that verifies; a warning says what was passed over and why.

    `at_most` leaves out those of later steps.
    """
    path = stepdirs.newest_good(stage_dir, step, log, at_most=at_most)
    return Loaded(
        step=stepdirs.step_of(path),
        path=path,
        weights=_read_tensors(path / WEIGHTS),
        optim=_read_optim(path),
        config=files.read_json(path / "config.json", "checkpoint config"),
        state=files.read_json(path / "state.json", "checkpoint state"),
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    return _read_with_metadata(path)[0]


def _read_optim(path: Path) -> dict[str, Tensor]:
    """The optimizer's state, put together from the parts of all processes that wrote it."""
    parts = sorted(path.glob(f"{Path(OPTIM).stem}*.safetensors"))
    if not parts:
        raise DamagedArtifact(f"checkpoint has no optimizer state: {path}")
    return slices.assembled([_read_with_metadata(part) for part in parts], str(path))


def _read_with_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    unsafe.refuse_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
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
        created=manifest.get("created"),
    )
    return model.to(device=device, dtype=dtype), tokenizer, meta


def model_config(config: Mapping[str, Any], path: Path) -> ModelConfig:
    """Return the network's shape from a checkpoint's config.

    Raises DamagedArtifact if there is none, and NewerVersion if it has a field that this version does not know.
    """
    shape = config.get("model")
    if not isinstance(shape, dict):
        raise DamagedArtifact(f"checkpoint has no model config: {path / 'config.json'}")
    if unknown := sorted(set(shape) - {field.name for field in dataclasses.fields(ModelConfig)}):
        told = config.get("version") or "version unknown"
        raise NewerVersion(
            f"checkpoint was written by a newer nanochat ({told}), this is {__version__}, which does not know "
            f"{unknown[0]}: {path}",
            hint="upgrade: pip install -U nanochat",
        )
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
