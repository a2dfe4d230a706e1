"""`nanochat chat`: talk to a model, in the terminal or through a pipe."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from nanochat_cli.commands._options import App, leaf
from nanochat_cli.core import run_names, runs
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.units import ago
from nanochat_cli.output import Output

if TYPE_CHECKING:
    from nanochat_cli.core.checkpoint import Meta
    from nanochat_cli.core.engine.session import Reply, Session

app = App("Talk to a model in the terminal.", single=True)
_ENDINGS = {"length": "cut at --max-tokens", "context": "cut: the context is full", "interrupted": "interrupted"}


@app.command("chat")
@leaf
def chat(
    out: Output,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this, print the reply on stdout, and leave.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", "-i", help="Stage: base, mid, sft or rl (automatic: the last one).")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", "-g", help="Run (automatic: the most recent).")] = None,
    step: Annotated[
        int | None, typer.Option("--step", "-s", min=0, help="Checkpoint step (automatic: the last).")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", min=0.0, help="0 always takes the likeliest token.")
    ] = 0.6,
    top_k: Annotated[
        int, typer.Option("--top-k", "-k", min=0, help="Draw among this many likeliest tokens (0: all).")
    ] = 50,
    system: Annotated[str | None, typer.Option("--system", help="Text put before the conversation.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the drawing.")] = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest reply, in tokens.")] = 256,
    cpu: Annotated[bool, typer.Option("--cpu", help="Compute on the CPU even if there is a GPU.")] = False,
) -> None:
    """Talk to a model: the last stage of the most recent run, unless you choose another.

    Type /help in the conversation. Text on standard input is asked as one question.
    """
    if source is not None and source not in runs.STAGES:
        raise ConfigError(f"no such stage: {source}", hint=f"choose one of: {', '.join(runs.STAGES)}")
    question = _question(prompt, out)
    run, source, step = run_names.locate(run, source, step)  # before the heavy imports: a missing model is told at once
    from nanochat_cli.core.engine.session import Sampling, open_session

    sampling = Sampling(temperature=temperature, top_k=top_k or None, seed=seed, max_tokens=max_tokens)
    device = "cpu" if cpu else None
    session, meta = open_session(
        sampling, run=run, source=source, step=step, system=system, device=device, log=out.log()
    )
    _introduce(session, meta, out)
    if question is not None:
        _ask_once(session, meta, question, out)
    else:
        _converse(session, out)


def talk(run: str, out: Output) -> None:
    """Open a conversation with the last stage of a run, as `nanochat chat --run RUN` does."""
    from nanochat_cli.core.engine.session import Sampling, open_session

    session, meta = open_session(Sampling(), run=run, log=out.log())
    _introduce(session, meta, out)
    _converse(session, out)


def _converse(session: "Session", out: Output) -> None:
    from nanochat_cli.commands._chat_loop import Loop

    Loop(session, out).run()


def _question(prompt: str | None, out: Output) -> str | None:
    """The one question to ask, or None for a conversation on the terminal."""
    if prompt is None and sys.stdin.isatty():
        if out.json_mode:
            raise ConfigError("--json needs a question", hint="nanochat chat --json -p 'hello'")
        return None
    question = (sys.stdin.read() if prompt is None else prompt).strip()
    if not question:
        raise ConfigError("the question is empty", hint="nanochat chat -p 'hello'")
    return question


def _introduce(session: "Session", meta: "Meta", out: Output) -> None:
    """Say which model answers: run, stage, step and age."""
    out.note(f"run {meta.run}, stage {meta.stage}, step {meta.step:,}, saved {ago(meta.created)}: {meta.path}")
    if session.raw:
        out.note("a base model continues your text; it has not learned to answer")


def _ask_once(session: "Session", meta: "Meta", question: str, out: Output) -> None:
    pieces = session.ask(question)
    if not out.json_mode:
        for piece in pieces:
            out.text(piece, end="")
        out.text("")
        footer(session.last, out)
        return
    text = "".join(pieces)
    last = session.last
    model = {"run": meta.run, "stage": meta.stage, "step": meta.step}
    numbers = {"tokens": last.num_tokens, "seconds": round(last.seconds, 3), "ending": last.ending}
    out.json({**model, "prompt": question, "reply": text, **numbers})


def footer(reply: "Reply", out: Output) -> None:
    """Say how the reply went: tokens, speed, and what was cut or given up."""
    parts = [f"{reply.num_tokens} tokens"]
    if reply.tokens_per_s:
        parts.append(f"{reply.tokens_per_s:,.0f} tok/s")
    if reply.ending in _ENDINGS:
        parts.append(_ENDINGS[reply.ending])
    out.note(" · ".join(parts))
