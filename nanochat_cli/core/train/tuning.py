"""Training a part of a model only: for machines that do not hold the optimizer of all of it."""

from __future__ import annotations

from typing import Protocol

from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models import freezing, lora
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.optim.groups import ParamGroup


class Tuning(Protocol):
    """What `settings.TuneSection` says."""

    @property
    def freeze_layers(self) -> int | None: ...
    @property
    def lora(self) -> int | None: ...


def prepare(model: LanguageModel, tune: Tuning, *, seed: int, log: Log = NULL) -> None:
    """Freeze and adapt a model as asked for; must come before its batch size, its kernels and its optimizer.

    Raises ConfigError for what the model cannot have.
    """
    if tune.freeze_layers is None and tune.lora is None:
        return
    if tune.freeze_layers is not None:
        freezing.freeze(model, tune.freeze_layers)
    if tune.lora is not None:
        lora.attach(model, tune.lora, seed)
    log.note(f"{model.num_trained():,} numbers are trained, of a model of {model.num_params():,}")


def groups(model: LanguageModel) -> list[ParamGroup]:
    """Return the optimizer groups of what is trained."""
    return [*freezing.trained(model.param_groups()), *lora.groups(model)]
