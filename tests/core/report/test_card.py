"""The two report files: complete, self-contained, and safe whatever was recorded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nanochat_cli.core import machine
from nanochat_cli.core.errors import MissingArtifact
from nanochat_cli.core.report import scores
from nanochat_cli.core.report.card import write_report

MakeRun = Callable[..., Path]
VOID = {"meta", "line", "circle", "path", "br"}


class Page(HTMLParser):
    """Collects tags, checks that they nest, and keeps what a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


@pytest.fixture()
def texts(make_run: MakeRun) -> tuple[str, str]:
    written = write_report(make_run())
    return written.markdown.read_text(encoding="utf-8"), written.html.read_text(encoding="utf-8")


def test_html_is_well_formed_and_needs_nothing_else(texts: tuple[str, str]) -> None:
    page = Page(texts[1])
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "a", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert "url(" not in texts[1] and "@import" not in texts[1]
    assert "default-src 'none'" in texts[1]


def test_recorded_text_is_shown_and_never_obeyed(texts: tuple[str, str], evil: str) -> None:
    markdown, html = texts
    visible = "".join(Page(html).seen)
    assert '<script>alert("x")</script>' in visible and "<script>" not in html
    for text in texts:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    outside_code = re.sub(r"^(`{3,})text\n.*?\n\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert r"\<script\>" in outside_code and "<script>" not in outside_code
    assert r"\*\*bold\*\*" in outside_code and r"\[link\](http\://bad.example)" in outside_code


def test_every_chart_is_valid_svg_with_title_and_description(texts: tuple[str, str]) -> None:
    pictures = re.findall(r"<svg.*?</svg>", texts[1], flags=re.DOTALL)
    assert len(pictures) == 2 + 2 * 4  # shares of two splits; loss and one measure for each of four stages
    names = set()
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        title, description = root.find("title"), root.find("desc")
        assert title is not None and title.text and description is not None and description.text
        assert root.attrib["aria-labelledby"] == f"{title.attrib['id']} {description.attrib['id']}"
        names.add(title.attrib["id"])
        width, height = (float(v) for v in root.attrib["viewBox"].split()[2:])
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", picture):
            assert 0 <= float(x) <= width and 0 <= float(y) <= height
    assert len(names) == len(pictures)


def test_markdown_tells_the_same_figures(texts: tuple[str, str]) -> None:
    markdown, html = texts
    row = next(line for line in markdown.splitlines() if line.startswith("| addition"))
    assert "97.0 % (93.6–98.6)" in row and "99.0 % (96.4–99.7)" in row
    assert "**" not in row, "two points more of 200 are within chance"
    story = next(line for line in markdown.splitlines() if line.startswith("| story"))
    assert r"62.0 % \*" in story  # the shortcut, which beats the majority
    visible = " ".join(Page(html).seen)
    for text in (
        "Example CPU 9000",
        "bf16, matmul attention, compiled",
        "nanochat train sft --run demo --seed 7",
        "1.05 M",
    ):
        assert text in visible and text in markdown
    assert "| compute.seed | BASE, MID, SFT, RL | **7** | 0 |" in markdown.replace(r"\_", "_")
    gain = next(line for line in markdown.splitlines() if line.startswith("| accuracy"))
    assert "90 of 200 | 150 of 200 | +30.0 (+20.5 to +38.7) | sure" in gain.replace("\\", "")
    assert "### tinyworld · wording, family by family" in markdown
    assert "within chance" in markdown and "(expected: 2)" in markdown


def test_all_table_rows_are_as_wide_as_their_head(texts: tuple[str, str]) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", texts[0], flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


@pytest.mark.parametrize("stages", [("base",), ("sft",), ("base", "sft")])
def test_stages_may_be_missing(make_run: MakeRun, stages: tuple[str, ...]) -> None:
    run = make_run(stages, graded=())
    written = write_report(run)
    assert Page(written.html.read_text(encoding="utf-8")).open == []
    head = next(line for line in written.markdown.read_text().splitlines() if line.startswith("| "))
    assert head.split("|")[2:-2] == [f" {stage.upper()} " for stage in stages]


def test_scraps_of_a_run_are_enough(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run.json, no result, half a line of events, a broken evaluation, no tools on the path."""
    monkeypatch.setenv("PATH", "")
    run = make_run(("base",), graded=())
    (run / "run.json").unlink()
    for name in ("result.json", "execution.json"):
        (run / "base" / name).unlink()
    shutil.rmtree(run / "base" / "step-000040")
    (run / "base" / "config.json").write_text("{ not json")
    lines = (run / "base" / "events.jsonl").read_text().splitlines()
    (run / "base" / "events.jsonl").write_text("\n".join(lines[:50]) + '\n{"kind": "step", "st')
    (run / "eval").mkdir()
    (run / "eval" / "base.json").write_text('{"tasks": [{"task": "x"}], "bpb": 3}')
    text = write_report(run).markdown.read_text(encoding="utf-8")
    assert "not finished" in text and machine.cpu_name().split()[0] in text


def test_nothing_recorded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingArtifact, match="nothing to report"):
        write_report(tmp_path / "empty")


def test_not_a_number_does_not_break_the_charts(make_run: MakeRun) -> None:
    run = make_run(("base",), graded=())
    with (run / "base" / "events.jsonl").open("a") as handle:
        for value in ("nan", "inf", None):
            handle.write(
                json.dumps({"kind": "step", "time": 1.0, "step": 1300, "num_steps": 1300, "loss": value}) + "\n"
            )
        handle.write('{"kind": "eval", "step": 1300, "metric": "val_bpb", "value": NaN}\n')
    html = write_report(run).html.read_text(encoding="utf-8")
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)).lower()


def test_resumed_steps_are_not_drawn_twice(make_run: MakeRun) -> None:
    from nanochat_cli.core.report.gather import read_run

    run = make_run(("base",), graded=())
    path = run / "base" / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    again = [e for e in events if e["kind"] == "step" and 800 < e["step"] <= 1200]
    cut = [e for e in events if e["kind"] != "done" and e.get("step", 0) <= 1000]
    resumed = [
        {"kind": "stage", "time": 9e9, "name": "base", "purpose": ""},
        {"kind": "resumed", "time": 9e9, "step": 800},
    ]
    path.write_text("".join(json.dumps(e) + "\n" for e in cut + resumed + [{**e, "time": 9e9 + 1} for e in again]))
    stage = read_run(run).stages[0]
    assert [step for step, _ in stage.curve("loss")] == list(range(1, 1201))
    assert stage.seconds == pytest.approx(
        3 + 800 * 4096 / 40_000 + 1, rel=0.2
    )  # the pause between the sessions is not work


def test_commands_that_made_corpus_and_tokenizer(make_run: MakeRun) -> None:
    run = make_run(("base", "sft"), graded=())
    base = run.parent.parent
    saved = json.loads((run / "base" / "config.json").read_text())
    saved["config"]["corpus"] |= {"data": "tiny", "tokenizer": "tiny-tok"}
    (run / "base" / "config.json").write_text(json.dumps(saved))
    source = {"kind": "generated", "generator": "tinyworld", "documents": 900, "seed": 3}
    shards = [{"rows": 900, "text_bytes": 60_000}]
    for folder, name, content in (
        ("data/tiny", "manifest.json", {"fingerprint": "ef" * 32, "source": source, "shards": shards}),
        ("tokenizers/tiny-tok", "tokenizer.json", {"vocab_size": 512, "hash": "ab" * 32, "pattern": {"name": "digit"}}),
    ):
        (base / folder).mkdir(parents=True)
        (base / folder / name).write_text(json.dumps(content))
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"recipe": "demo", "seed": 3, "minutes": 2.0}))
    text = write_report(run).markdown.read_text(encoding="utf-8")
    for command in (
        "nanochat demo --seed 3 --minutes 2",
        "nanochat data synth --name tiny --documents 900 --chats 0 --seed 3",
        "nanochat tok train --input tiny --name tiny-tok --vocab 512 --pattern digit",
    ):
        assert command in text.splitlines()
    assert "tiny: 900 documents, 60 kB of text" in text and "efefefefefefefef" in text


def test_a_stage_written_into_another_run_is_repeated_from_its_source(make_run: MakeRun) -> None:
    run = make_run(("sft",), graded=())
    path = run / "sft" / "config.json"
    for source, into, words in (
        ("other", run.name, f"nanochat train sft --run other --into {run.name}"),
        (run.name, run.name, f"nanochat train sft --run {run.name}"),
    ):
        saved = json.loads(path.read_text())
        saved["config"]["source"] = saved["config"].get("source", {}) | {"run": source}
        saved["config"]["output"] = {"into": into}
        path.write_text(json.dumps(saved))
        text = write_report(run).markdown.read_text(encoding="utf-8")
        assert any(line.startswith(words) for line in text.splitlines()), text
        assert ("--into" in text) == (source != into)


def test_command_writes_both_files(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanochat_cli.core import report

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(make_run(("sft",)).parent.parent))
    assert [path.name for path in report.write("demo")] == ["report.md", "report.html"]
    assert [path.name for path in report.write("demo")] == ["report.md", "report.html"]  # twice is no problem


def test_bold_is_what_chance_does_not_explain_and_other_numbers_of_questions_are_told() -> None:
    few = {"correct": 49, "total": 50, "low": 0.895, "high": 0.996}
    many = {"correct": 189, "total": 200, "low": 0.904, "high": 0.969}
    poor = {"correct": 90, "total": 200, "low": 0.38, "high": 0.52}
    row = scores._row(["sft", "rl"], "task", "spell", {"sft": few, "rl": many})
    assert [cell.strong for cell in row.cells[1:3]] == [False, False]
    assert [str(cell.remark).rpartition(", ")[2] for cell in row.cells[1:3]] == ["50 asked", "200 asked"]
    row = scores._row(["sft", "rl"], "task", "spell", {"sft": poor, "rl": many})
    assert [cell.strong for cell in row.cells[1:3]] == [False, True]
    assert "asked" not in str(row.cells[1].remark)


def test_means_over_samples_are_no_counts_of_right_answers() -> None:
    counted = [{"metric": "accuracy", "correct": n, "total": 20, "low": 0.0, "high": 1.0} for n in (4, 16)]
    means = [{"metric": "pass@1", "value": value, "total": 5, "samples": 4} for value in (0.1, 0.8)]

    class Stage:
        name, metrics = "rl", ("accuracy", "pass@1")

        def of(self, kind: str) -> list[dict[str, object]]:
            return counted + means  # type: ignore[operator]

    (_, table) = scores.practice(Stage())  # type: ignore[arg-type]
    assert [row.cells[0].text for row in table.rows] == ["accuracy"]
