"""Collecting conversations from an endpoint that does all that endpoints do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import events, paths, planning
from nanochat_cli.core.data import journal
from nanochat_cli.core.data.chats import read_chats
from nanochat_cli.core.data.synthchats import chatset, endpoint, make, topic
from nanochat_cli.core.data.synthchats.budget import Limits
from nanochat_cli.core.data.synthchats.collect import Effort
from nanochat_cli.core.data.synthchats.request import Style
from nanochat_cli.core.errors import ConfigError, NanochatError
from tests.core.data.synthchats.endpoint_faults import Server, Step, serving, talk

ABOUT = topic.read(topic.EXAMPLE)
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as ours:
        yield ours


def run(
    server: Server,
    *,
    number: int = 6,
    heard: list[events.Event] | None = None,
    limits: Limits | None = None,
    timeout_s: float = 5.0,
    about: topic.Topic = ABOUT,
    style: Style | None = None,
    key: str | None = KEY,
    near: float | None = make.NEAR,
    **effort: Any,
) -> make.Made:
    client = endpoint.Endpoint(server.url, key, timeout_s=timeout_s)
    try:
        return make.from_endpoint(
            about,
            "who",
            ask=client.ask,
            url=client.url,
            style=style or Style(model="m"),
            limits=limits or Limits(),
            number=number,
            effort=Effort(**{"workers": 3, "first_wait_s": 0.01, **effort}),
            near=near,
            log=events.Listener((heard if heard is not None else []).append),
        )
    finally:
        client.close()


def everything_written(folder: Path) -> str:
    return "".join(p.read_text(errors="replace") for p in sorted(folder.rglob("*")) if p.is_file())


def test_good_answers_become_a_set_that_training_takes(server: Server) -> None:
    made = run(server, number=6)
    assert made.complete and made.facts["conversations"] == 6 and made.facts["tokens_in"] == 600
    (source,) = planning.chat_sources(("who",), "sft")
    assert len(read_chats(source.rpartition(":")[0])) == 6
    assert planning.chat_sources(("who",), "mid")
    assert [name for name, _ in chatset.all_sets()] == ["who"]
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}" and server.seen[0].path == "/v1/chat/completions"
    assert KEY not in everything_written(paths.base_dir())
    assert not list(journal.unfinished(paths.corpora_dir()))
    with pytest.raises(ConfigError, match="exists already"):
        run(server)


def test_requests_run_side_by_side_but_no_more_than_asked_for(server: Server) -> None:
    server.default = lambda n: Step(content=talk(n), wait_s=0.05)
    run(server, number=9, workers=3)
    assert server.most_at_once == 3


def test_junk_is_tried_again_and_paid_for(server: Server) -> None:
    server.steps = {
        0: Step(content="Sure! Here it is."),
        1: Step(content=json.dumps({"messages": [{"role": "assistant", "content": "x"}]})),
        2: Step(body=b"<html>oops</html>"),
        3: Step(content=talk(3), finish="length"),
        4: Step(content=None),
        5: Step(status=503),
        6: Step(hang_up=True),
    }
    heard: list[events.Event] = []
    made = run(server, number=3, heard=heard)
    assert made.facts["conversations"] == 3 and len(server.seen) == 10
    assert made.facts["unusable"] == 4 and made.facts["tokens_in"] == 700
    assert any("could not be used" in e["text"] for e in heard if e["kind"] == "warning")


def test_too_many_requests_means_waiting_as_long_as_is_asked() -> None:
    effort = Effort(chance=lambda: 0.5)
    assert effort.wait(0, None) == 0.5 and effort.wait(3, None) == 4.0 and effort.wait(30, None) == 30.0
    assert effort.wait(0, 7.0) == 7.5 and effort.wait(0, 1e9) == 300.5


def test_429_then_good(server: Server) -> None:
    server.steps = {0: Step(status=429, headers={"Retry-After": "0"}), 1: Step(status=429)}
    assert run(server, number=2, workers=1).facts["conversations"] == 2
    assert len(server.seen) == 4


def test_a_slow_answer_is_asked_for_again(server: Server) -> None:
    server.steps = {0: Step(content=talk(0), wait_s=1.0)}
    assert run(server, number=1, timeout_s=0.2).facts["conversations"] == 1
    assert len(server.seen) == 2


def test_a_server_that_stops_half_way_leaves_what_came_and_costs_nothing_twice(server: Server) -> None:
    server.default = lambda n: Step(content=talk(n)) if n < 4 else Step(hang_up=True)
    with pytest.raises(NanochatError, match="5 requests in a row") as caught:
        run(server, number=30, workers=1, tries=2)
    assert "go on" in (caught.value.hint or "") and not (paths.corpora_dir() / "who").exists()
    before = len(server.seen)
    server.default = lambda n: Step(content=talk(n))
    heard: list[events.Event] = []
    made = run(server, number=30, heard=heard)
    assert made.facts["conversations"] == 30 and len(server.seen) - before == 26
    assert any("4 answers are here" in e.get("text", "") for e in heard)


def test_another_topic_model_or_seed_takes_over_nothing(server: Server) -> None:
    server.default = lambda n: Step(content=talk(n)) if n < 2 else Step(status=401)
    with pytest.raises(NanochatError, match="refuses: HTTP 401"):
        run(server, number=4, workers=1)
    before = len(server.seen)
    server.default = lambda n: Step(content=talk(n))
    run(server, number=4, style=Style(model="other"))
    assert len(server.seen) - before == 4


def test_a_refusal_stops_at_once_and_hides_the_key(server: Server) -> None:
    body = json.dumps({"error": {"message": f"bad key {KEY}\x1b[31m"}}).encode()
    server.default = lambda n: Step(status=401, body=body)
    with pytest.raises(NanochatError) as caught:
        run(server, workers=1)
    assert "HTTP 401" in str(caught.value) and "bad key ***" in str(caught.value)
    assert KEY not in str(caught.value) and "\x1b" not in str(caught.value) and len(server.seen) == 1


def test_one_prompt_that_is_refused_does_not_end_the_rest(server: Server) -> None:
    server.steps = {1: Step(status=400, body=b'{"error": "filtered"}')}
    made = run(server, number=4, workers=1)
    assert made.facts["given_up"] == 1 and made.facts["conversations"] == 4


def test_the_key_goes_to_no_other_server(server: Server) -> None:
    with serving() as other:
        server.default = lambda n: Step(status=307, headers={"Location": f"{other.url}/chat/completions"}, body=b"")
        with pytest.raises(NanochatError, match="redirect to another server"):
            run(server, workers=1)
        assert other.seen == []


def test_a_redirect_within_the_server_is_followed(server: Server) -> None:
    server.steps = {0: Step(status=308, headers={"Location": "/v2/chat/completions"}, body=b"")}
    assert run(server, number=1).facts["conversations"] == 1
    assert [s.path for s in server.seen] == ["/v1/chat/completions", "/v2/chat/completions"]
    assert server.seen[1].body == server.seen[0].body


def test_duplicates_are_left_out_and_others_asked_for_instead(server: Server) -> None:
    server.default = lambda n: Step(content=talk(0 if n in (1, 2) else n))
    server.steps = {4: Step(content=talk(3).replace(" 1", " one"))}
    made = run(server, number=6, workers=1)
    assert made.facts["conversations"] == 6 and len(server.seen) == 9
    assert (made.facts["duplicates"], made.facts["near_duplicates"]) == (2, 1)


def test_a_model_with_one_answer_does_not_cost_more_than_twice(server: Server) -> None:
    server.default = lambda n: Step(content=talk(0))
    made = run(server, number=10)
    assert made.facts["conversations"] == 1 and len(server.seen) == 20


def test_the_limit_of_cost_holds_publishes_what_is_there_and_can_be_raised(server: Server) -> None:
    small = Style(model="m", max_tokens=100)
    prices = {"price_in": 1.0, "price_out": 1.0}
    made = run(server, number=40, limits=Limits(**prices, max_cost=0.003), style=small)
    first = made.facts["conversations"]
    assert not made.complete and made.facts["cost"] <= 0.003 and 5 <= first < 40
    assert len(server.seen) == first and (made.folder / "chats" / "sft.jsonl").is_file()
    again = run(server, number=40, limits=Limits(**prices, max_cost=1.0), style=small)
    assert again.complete and again.facts["conversations"] == 40 and len(server.seen) == 40
    assert again.facts["cost"] == pytest.approx(40 * 150e-6)


def test_tokens_are_estimated_where_the_server_does_not_tell(server: Server) -> None:
    server.default = lambda n: Step(content=talk(n), usage=None)
    made = run(server, number=2)
    assert made.facts["tokens_estimated"] and made.facts["tokens_in"] > 200 and made.facts["tokens_out"] > 50


def test_no_room_for_a_single_request_is_an_error(server: Server) -> None:
    with pytest.raises(NanochatError, match="no room for a single request"):
        run(server, limits=Limits(max_tokens=10))
    assert server.seen == []


def test_the_plan_asks_nobody(server: Server) -> None:
    found = make.plan(ABOUT, Style(model="m"), Limits(price_in=1.0, price_out=2.0), 500)
    assert found["requests"] == 500 and 0 < found["cost"] < found["cost_at_most"] and "Fern" in found["example"]
    assert server.seen == []
