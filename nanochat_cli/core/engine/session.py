"""A conversation that goes on: keeps the turns, fits them into the context, hands out the reply as it is written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from nanochat_cli.core import checkpoint
from nanochat_cli.core.checkpoint import Meta
from nanochat_cli.core.engine.detokenize import Detokenizer
from nanochat_cli.core.engine.generate import stream
from nanochat_cli.core.engine.tools import Spoken
from nanochat_cli.core.errors import ConfigError, DataError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.tokenizer.conversation import Conversation, Message, render_prompt
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

Ending = Literal["finished", "interrupted", "length", "context"]
LEAST_ROOM = 3
"""At least one part in this many of the context is kept for the reply; older turns make way for it."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. Temperature 0 always takes the likeliest."""

    temperature: float = 0.6
    top_k: int | None = 50
    seed: int = 0
    max_tokens: int = 256


@dataclass(kw_only=True)
class Reply:
    """What became of the last question."""

    text: str = ""
    num_tokens: int = 0
    seconds: float = 0.0
    ending: Ending = "interrupted"
    dropped: int = 0
    """Oldest turns (question and answer) that were given up to fit this one in."""

    @property
    def tokens_per_s(self) -> float | None:
        """Speed including the reading of the prompt; None before anything was written."""
        return self.num_tokens / self.seconds if self.num_tokens and self.seconds > 0 else None


class Session:
    """One conversation with one model. With `raw`, each message is text to continue, as a base model expects."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        sampling: Sampling,
        *,
        system: str | None = None,
        raw: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.system, self.raw = system, raw
        self.turns: list[tuple[str, str]] = []
        self.last = Reply()
        self._asked = 0

    def clear(self) -> None:
        """Forget all turns; the system text stays."""
        self.turns.clear()

    def ask(self, text: str) -> Iterator[str]:
        """Yield the reply piece by piece as it is written, never half a character.

        The turn is remembered however it ends: if the caller stops listening, or is interrupted, with what was said
        until then. `last` tells how it went. Raises DataError if the message alone does not fit the context.
        """
        prompt, dropped = self._fit(text)
        self.last = Reply(dropped=dropped)
        del self.turns[:dropped]
        began = time.perf_counter()
        seed = self.sampling.seed + self._asked
        self._asked += 1
        try:
            for piece in self._write(prompt, seed):
                self.last.text += piece
                yield piece
        finally:
            self.last.seconds = time.perf_counter() - began
            if not self.raw:
                self.turns.append((text, self.last.text))

    def again(self) -> Iterator[str]:
        """Yield another reply to the last question, in place of the one given. Raises DataError if there was none."""
        if not self.turns:
            raise DataError("nothing has been asked yet")
        question, _ = self.turns.pop()
        return self.ask(question)

    def set_text(self, name: str, value: str) -> None:
        """Change how tokens are drawn, from the next reply on, as a person writes it. Raises ConfigError."""
        least: dict[str, float] = {"temperature": 0, "top_k": 0, "max_tokens": 1, "seed": 0}
        if name not in least:
            raise ConfigError(f"nothing to set by that name: {name}", hint=f"choose one of: {', '.join(least)}")
        try:
            number = float(value) if name == "temperature" else int(value)
        except ValueError:
            number = -1.0
        if not least[name] <= number < 1e9:
            raise ConfigError(f"{name} must be a number of at least {least[name]:g}: {value or 'nothing given'}")
        self.sampling = replace(self.sampling, **{name: number or None if name == "top_k" else number})

    # ---- details -----------------------------------------------------------------------------------------------------

    def _write(self, prompt: list[int], seed: int) -> Iterator[str]:
        """The text of the reply; sets the count of tokens and the ending of `last` on the way."""
        room = self.model.config.max_seq_len - len(prompt)
        allowed = min(self.sampling.max_tokens, room)
        stops = (
            {self.tokenizer.bos_id} if self.raw else {self.tokenizer.bos_id, self.tokenizer.special("assistant_end")}
        )
        text = Detokenizer(self.tokenizer)
        ids = stream(
            self.model,
            prompt,
            max_new_tokens=allowed,
            stop_ids=stops,
            temperature=self.sampling.temperature,
            top_k=self.sampling.top_k,
            seed=seed,
            tools=None if self.raw else self.tokenizer,
        )
        spoken = Spoken(self.tokenizer)
        for token in ids:
            self.last.num_tokens += 1
            if token in stops:
                self.last.ending = "finished"
                break
            if not spoken.is_text(token):
                continue
            if piece := text.push(token):
                yield piece
        else:
            self.last.ending = "context" if allowed == room else "length"
        if rest := text.flush():
            yield rest

    def _fit(self, text: str) -> tuple[list[int], int]:
        """Prompt ids for the next reply, and how many of the oldest turns had to go for it."""
        context = self.model.config.max_seq_len
        if self.raw:
            prompt = [self.tokenizer.bos_id, *self.tokenizer.encode(text)]
            return self._check(prompt, context), 0
        wanted = min(self.sampling.max_tokens, context // LEAST_ROOM)
        for dropped in range(len(self.turns)):
            prompt = self._render(self.turns[dropped:], text)
            if len(prompt) + wanted <= context:
                return prompt, dropped
        return self._check(self._render([], text), context), len(self.turns)

    def _check(self, prompt: list[int], context: int) -> list[int]:
        if len(prompt) >= context:
            raise DataError(
                f"the message is too long for this model: {len(prompt):,} tokens, context {context:,}",
                hint="ask something shorter, or train a model with a larger --max-seq-len",
            )
        return prompt

    def _render(self, turns: list[tuple[str, str]], text: str) -> list[int]:
        messages = [Message("system", self.system)] if self.system else []
        for question, answer in turns:
            messages += [Message("user", question), Message("assistant", answer)]
        return render_prompt(self.tokenizer, Conversation((*messages, Message("user", text))))


def open_session(
    sampling: Sampling,
    *,
    run: str | None = None,
    source: str | None = None,
    step: int | None = None,
    system: str | None = None,
    device: str | None = None,
    log: Log = NULL,
) -> tuple[Session, Meta]:
    """Return a session with a checkpoint and what that is; without a device, on a GPU if there is one.

    Raises MissingArtifact that says which models there are.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer, meta = checkpoint.load_model(checkpoint.find(run, source, step, log=log), device)
    model.eval()
    return Session(model, tokenizer, sampling, system=system, raw=meta.stage == "base"), meta
