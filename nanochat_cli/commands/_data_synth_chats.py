"""`nanochat data synth-chats`: conversations about who the model is, through an endpoint or from templates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat_cli.commands._data_again import again
from nanochat_cli.commands._options import DryRunOpt, leaf, options_from
from nanochat_cli.core import events, paths
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.settings import SynthChatsConfig, SynthChatsSection
from nanochat_cli.output import Output

if TYPE_CHECKING:
    from nanochat_cli.core.data.synthchats.budget import Limits
    from nanochat_cli.core.data.synthchats.make import Made
    from nanochat_cli.core.data.synthchats.request import Style
    from nanochat_cli.core.data.synthchats.topic import Topic


@leaf
@options_from(SynthChatsConfig, "data synth-chats")
def synth_chats(
    cfg: SynthChatsConfig,
    out: Output,
    example: Annotated[bool, typer.Option("--example", help="Print an example of a topic file.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a set of the same name.", rich_help_panel="Common")
    ] = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Make conversations about who the model is. Interrupted, or at its limit of cost, it goes on when run again."""
    from nanochat_cli.core.data.synthchats import make, topic

    want = cfg.synth_chats
    if example:
        text = topic.EXAMPLE.read_text(encoding="utf-8")
        out.result({"example": text}) if out.json_mode else out.text(text.rstrip("\n"))
        return
    if want.topic is None:
        raise ConfigError("which topic is missing", hint="nanochat data synth-chats --example > identity.toml")
    about = topic.read(want.topic)
    name = paths.check_name("set of chats", want.name or Path(want.topic).stem)
    number = want.number or about.number
    if want.offline == (want.endpoint is not None):
        raise ConfigError(
            "neither an endpoint nor --offline" if want.endpoint is None else "an endpoint and --offline",
            hint="give --endpoint URL --model NAME, or --offline",
        )
    if want.offline and "english" not in map(str.casefold, about.languages):
        raise ConfigError(f"templates are English only: {', '.join(about.languages)}", hint="use --endpoint")
    if dry_run:
        _show_plan(want, about, name, number, out)
        return
    with again(out), out.watch() as watcher:
        log = events.Listener(watcher.on_event)
        if want.offline:
            made = make.from_templates(about, name, number=number, seed=want.seed, force=force, log=log)
        else:
            made = _from_endpoint(want, about, name, number, force, log)
    _show(made, name, out)


def _from_endpoint(
    want: SynthChatsSection, about: "Topic", name: str, number: int, force: bool, log: events.Log
) -> "Made":
    from nanochat_cli.core.data.synthchats import endpoint, make
    from nanochat_cli.core.data.synthchats.collect import Effort

    style, limits = _style(want), _limits(want)
    client = endpoint.Endpoint(
        want.endpoint or "", endpoint.find_key(want.api_key_file), timeout_s=want.timeout_s, workers=want.workers
    )
    if client.key_withheld:
        log.warning("the key is not sent: the endpoint is neither https nor on this machine")
    try:
        return make.from_endpoint(
            about,
            name,
            ask=client.ask,
            url=client.url,
            style=style,
            limits=limits,
            number=number,
            effort=Effort(workers=want.workers, tries=want.tries, max_turns=want.max_turns),
            near=want.near_duplicates,
            force=force,
            log=log,
        )
    finally:
        client.close()


def _style(want: SynthChatsSection) -> "Style":
    from nanochat_cli.core.data.synthchats.request import Style

    if want.model is None:
        raise ConfigError("which model to ask for is missing", hint="--model NAME, as the endpoint calls it")
    return Style(
        model=want.model,
        seed=want.seed,
        temperature=want.temperature,
        max_tokens=want.max_tokens,
        max_turns=want.max_turns,
        response_format=want.response_format,
    )


def _limits(want: SynthChatsSection) -> "Limits":
    from nanochat_cli.core.data.synthchats.budget import Limits

    return Limits(
        price_in=want.price_in, price_out=want.price_out, max_cost=want.max_cost, max_tokens=want.max_tokens_total
    )


def _show_plan(want: SynthChatsSection, about: "Topic", name: str, number: int, out: Output) -> None:
    from nanochat_cli.core.data.synthchats import endpoint, make, offline

    facts: dict[str, Any] = {"name": name, "folder": str(paths.corpus_dir(name)), "conversations": number}
    if want.offline:
        turns = offline.conversation(about, want.seed, 0)
        out.result({**facts, "cost": 0.0}, title=f"would write {number:,} conversations from templates")
        if not out.json_mode:
            out.text("\n".join(f"{turn['role']}: {turn['content']}" for turn in turns))
        return
    plan = make.plan(about, _style(want), _limits(want), number)
    told = {**facts, "endpoint": endpoint.address(want.endpoint or ""), "model": want.model, **plan}
    if out.json_mode:
        out.json(told)
        return
    example = told.pop("example")
    for key in ("cost", "cost_at_most"):
        told[key] = "unknown without --price-in and --price-out" if told[key] is None else f"${told[key]:,.4f}"
    out.result(told, title=f"would ask for {number:,} conversations; tokens and cost are estimates")
    out.text(f"the first request says:\n\n{example}")


def _show(made: "Made", name: str, out: Output) -> None:
    out.result({"name": name, **made.facts, "folder": str(made.folder)})
    if not made.complete:
        out.warning("the limit of cost ended it: what is there is published")
        out.hint("run the same command again with a higher limit to go on; what was paid for is kept")
    out.hint(f"nanochat train sft --data {name}")


def tell_sets(out: Output) -> None:
    """Name the sets of chats that lie beside the corpora."""
    from nanochat_cli.core.data.synthchats import chatset

    for name, record in chatset.all_sets():
        out.note(f"set of chats {name}: {record.get('conversations')} conversations, for --data {name}")
