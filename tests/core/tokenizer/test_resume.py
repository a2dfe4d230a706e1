"""An interrupted training goes on where it was, to the same tokens; bounded memory changes nothing either."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli import _bpe
from nanochat_cli.core import events
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, NanochatError
from nanochat_cli.core.interrupts import uninterrupted
from nanochat_cli.core.tokenizer.limits import Limits
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.tokenizer.training import Batch, Options
from nanochat_cli.core.tokenizer.unfinished import Unfinished

IDENTITY = {"text": "made up", "vocab": 500}


def documents() -> list[str]:
    draw = random.Random(11)
    stems = ["".join(draw.choices("abcdeé ", k=draw.randint(1, 20))) for _ in range(400)]
    return [" ".join(draw.choices(stems, k=30)) for _ in range(60)]


TEXTS = documents()


def batches() -> list[Batch]:
    return [TEXTS[start : start + 7] for start in range(0, len(TEXTS), 7)]


def train(saved: Unfinished | None = None, log: events.Log = events.NULL, **options: Any) -> Tokenizer:
    return Tokenizer.train_on_batches(batches(), 500, saved=saved, log=log, options=Options(threads=2, **options))


class Interrupt(events.Log):
    """Presses Ctrl-C at the nth progress of a task."""

    def __init__(self, task: str, at: int) -> None:
        self.task, self.left = task, at

    def emit(self, kind: str, **fields: Any) -> None:
        if kind == "progress" and fields["task"] == self.task:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("task", "at"),
    [("counting pieces", n) for n in (1, 4, 9)] + [("putting counts together", 30)] + [("merging pairs", 1)],
)
def test_resumed_it_is_the_same(tmp_path: Path, task: str, at: int) -> None:
    whole = train()
    saved = Unfinished(tmp_path / "unfinished", IDENTITY, every_s=0)
    with pytest.raises(KeyboardInterrupt):
        train(saved, Interrupt(task, at))
    again = Unfinished(tmp_path / "unfinished", IDENTITY, every_s=0)
    assert again.load()
    assert bool(again.merges) == (task == "merging pairs")
    resumed = train(again)
    assert (resumed.hash, resumed.training) == (whole.hash, whole.training)


def test_interrupted_again_and_again(tmp_path: Path) -> None:
    whole, interruptions = train(), 0
    while True:
        saved = Unfinished(tmp_path, IDENTITY, every_s=0)
        saved.load()
        try:
            resumed = train(saved, Interrupt("counting pieces" if interruptions < 6 else "merging pairs", 2))
        except KeyboardInterrupt:
            interruptions += 1
            assert interruptions < 20
            continue
        break
    assert interruptions >= 4
    assert (resumed.hash, resumed.training) == (whole.hash, whole.training)


def test_only_the_documents_that_are_left_are_asked_for(tmp_path: Path) -> None:
    saved = Unfinished(tmp_path, IDENTITY, every_s=0)
    with pytest.raises(KeyboardInterrupt):
        train(saved, Interrupt("counting pieces", 4))
    again = Unfinished(tmp_path, IDENTITY)
    again.load()
    asked: list[int] = []

    def source(rows: int) -> Iterator[Batch]:
        asked.append(rows)
        yield TEXTS[rows:]

    assert Tokenizer.train_on_batches(source, 500, saved=again).hash == train().hash
    assert asked == [28], "four batches of seven were counted when the fourth was told of"


def test_a_limit_on_characters_survives(tmp_path: Path) -> None:
    limits = Limits(max_chars=3000, doc_cap=90)
    whole = train(limits=limits)
    saved = Unfinished(tmp_path, IDENTITY, every_s=0)
    with pytest.raises(KeyboardInterrupt):
        train(saved, Interrupt("counting pieces", 3), limits=limits)
    again = Unfinished(tmp_path, IDENTITY)
    again.load()
    assert train(again, limits=limits).training == whole.training


def test_another_training_is_refused(tmp_path: Path) -> None:
    saved = Unfinished(tmp_path, IDENTITY, every_s=0)
    with pytest.raises(KeyboardInterrupt):
        train(saved, Interrupt("merging pairs", 1))
    with pytest.raises(ConfigError, match="differs in vocab") as caught:
        Unfinished(tmp_path, IDENTITY | {"vocab": 501}).load()
    assert caught.value.hint and "without --resume" in caught.value.hint


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "merges", "state"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    saved = Unfinished(tmp_path, IDENTITY, every_s=0)
    with pytest.raises(KeyboardInterrupt):
        train(saved, Interrupt("merging pairs", 1))
    counts = tmp_path / "counts-0.bin"
    content = bytearray(counts.read_bytes())
    if damage == "cut":
        counts.write_bytes(content[:-1])
    elif damage == "flipped":
        content[-1] ^= 1
        counts.write_bytes(content)
    elif damage == "gone":
        counts.unlink()
    elif damage == "merges":
        (tmp_path / "merges.txt").write_text("0 255\n")
    else:
        (tmp_path / "state.json").write_text('{"format": 1}')
    with pytest.raises(NanochatError, match="damaged"):
        again = Unfinished(tmp_path, IDENTITY)
        again.load()
        train(again)


def test_little_memory_gives_the_same_tokens(tmp_path: Path) -> None:
    whole = train()
    needed = _needed()
    spilled: list[str] = []

    class Watched(Unfinished):
        def spill(self, counter: Any, *, last: bool = False) -> None:
            super().spill(counter, last=last)
            spilled.append(self.counts[-1])

    least = 491 * 400 + (2 << 18)
    bounded = train(Watched(), max_memory=max(needed, least))
    assert (bounded.hash, bounded.training) == (whole.hash, whole.training)
    assert len(spilled) > 1
    assert not any(Path(path).exists() for path in spilled), "the temporary files are gone"
    with pytest.raises(ConfigError, match=r"merging .* distinct pieces needs about [\d.]+ [kM]B of memory") as caught:
        _grown(900_000)
    assert caught.value.hint and "--max-memory" in caught.value.hint
    with pytest.raises(ConfigError, match=r"491 tokens and 2 threads need more memory: 500 kB") as caught:
        train(max_memory=500_000)
    assert caught.value.hint == "use --max-memory 721kB at least"


def _grown(limit: int) -> Tokenizer:
    """Trains on more text than merging has memory for."""
    draw = random.Random(3)
    texts = [" ".join("".join(draw.choices("abcdefgh", k=14)) for _ in range(60)) for _ in range(300)]
    return Tokenizer.train_on_batches([texts], 500, options=Options(threads=1, max_memory=limit))


def _needed() -> int:
    counter = _bpe.Counter(_bpe.Splitter("gpt4", 2), 1)
    counter.feed(TEXTS)
    return counter.finish().merge_memory(491)


def test_rare_pieces_are_left_out_on_request_and_that_is_recorded() -> None:
    texts = ["often often often seldom"]
    options = Options(threads=1, min_piece_count=2, allow_smaller=True)
    pruned = Tokenizer.train_on_batches([texts], 300, options=options)
    assert pruned.training["min_piece_count"] == 2
    assert b" often" in pruned.ordinary
    assert not any(b"dom" in token for token in pruned.ordinary)
    assert "min_piece_count" not in Tokenizer.train_on_batches([texts], 265).training


def test_counts_beyond_32_bits_through_a_file(tmp_path: Path) -> None:
    counter = _bpe.Counter(_bpe.Splitter("whole"), 2)
    counter.add([("ab", 3_000_000_000), ("cd", 2_999_999_999), ("ab", 5)])
    with pytest.raises(ValueError, match="below one"):
        counter.add([("ab", 0)])
    counter.spill(str(tmp_path / "counts"))
    pieces = _bpe.Pieces()
    for partition in range(64):
        pieces.gather([str(tmp_path / "counts")], partition)
    with pytest.raises(ValueError, match="no such partition"):
        pieces.gather([], 64)
    trainer = _bpe.Trainer(pieces, 258)
    assert trainer.step(10) and trainer.tokens()[256:] == [b"ab", b"cd"]
    assert trainer.encoded_length() == 6_000_000_004


def test_nothing_to_go_on_with(tmp_path: Path) -> None:
    assert not Unfinished(tmp_path / "absent", IDENTITY).load()
    assert not Unfinished().load()
    with pytest.raises(DamagedArtifact):
        (tmp_path / "state.json").write_text("{")
        Unfinished(tmp_path, IDENTITY).load()


def test_ctrl_c_while_merging_saves_what_was_never_on_the_disk(tmp_path: Path) -> None:
    """Nothing is due for saving yet: only the interruption makes it so."""
    whole = train()
    for at in (1, 2):
        saved = Unfinished(tmp_path / str(at), IDENTITY, every_s=1e9)
        with pytest.raises(KeyboardInterrupt):
            train(saved, Interrupt("merging pairs" if at == 1 else "counting pieces", at))
        again = Unfinished(tmp_path / str(at), IDENTITY)
        assert again.load() and again.counted == (at == 1)
        resumed = train(again)
        assert (resumed.hash, resumed.training) == (whole.hash, whole.training)


def test_merges_that_are_followed_are_not_forgotten(tmp_path: Path) -> None:
    saved = Unfinished(tmp_path, IDENTITY, every_s=1e9)
    with pytest.raises(KeyboardInterrupt):
        train(saved, Interrupt("merging pairs", 1))
    first = (tmp_path / "merges.txt").read_text()
    assert first
    again = Unfinished(tmp_path, IDENTITY, every_s=0)
    again.load()
    with pytest.raises(KeyboardInterrupt):
        train(again, Interrupt("putting counts together", 1))
    assert (tmp_path / "merges.txt").read_text() == first


def test_an_interruption_waits_for_the_bookkeeping(tmp_path: Path) -> None:
    """A real Ctrl-C inside a step that counts and notes how far it came is put off to its end."""
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("all of it")
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
