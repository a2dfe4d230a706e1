from __future__ import annotations

from pathlib import Path

import pytest

from nanochat_cli.core import events
from nanochat_cli.core.data.corpus import Corpus
from nanochat_cli.core.data.packing import Packing
from nanochat_cli.core.data.shards import CorpusWriter
from nanochat_cli.core.dist import Dist
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.train import data
from tests.core.train.conftest import SENTENCES


@pytest.mark.parametrize("packing", ["whole", "crop"])
def test_what_packing_drops_and_pads_is_told_and_recorded(
    base_dir: Path, tokenizer: Tokenizer, packing: Packing
) -> None:
    with CorpusWriter("small", val_fraction=0.2) as writer:
        for i in range(60):
            writer.add(SENTENCES[i % 3] * (1 + i % 7) + str(i))
    corpus = Corpus.open("small")
    heard: list[events.Event] = []
    rows = data.text_rows(corpus, tokenizer, 32, Dist(), events.Listener(heard.append), packing_by=packing)
    facts, notes = rows.facts, [event["text"] for event in heard if event["kind"] == "note"]
    assert facts["packing"] == packing and facts["rows"] == rows.train.num_rows
    assert (facts["dropped_tokens"] > 0) == (packing == "crop")
    assert facts["dropped_fraction"] == pytest.approx(facts["dropped_tokens"] / facts["train_tokens"], abs=1e-4)
    assert facts["padding_fraction"] == pytest.approx(rows.train.padding_fraction, abs=1e-4)
    assert any(
        f"packing {packing}: {rows.train.dropped_fraction:.1%} of the tokens dropped" in text
        and f"{rows.train.padding_fraction:.2%} of the slots padding" in text
        for text in notes
    )
    assert rows.val.dropped_tokens == 0  # whatever is trained on, losses are measured on the same rows
