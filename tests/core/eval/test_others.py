"""A transformers model as a baseline, and our models in lm-evaluation-harness, with the packages if they are here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanochat_cli.core.errors import ConfigError, DamagedArtifact
from nanochat_cli.core.eval import hf, lm_eval, scoring
from nanochat_cli.core.eval.scoring import Span
from nanochat_cli.core.events import Listener
from nanochat_cli.core.models import shape
from nanochat_cli.core.models.base import LanguageModel
from nanochat_cli.core.models.build import build
from nanochat_cli.core.tokenizer.tokenizer import Tokenizer

TEXTS = ["The cat sat on the mat.", "Ann has two apples and a pear.", "red green blue yellow"] * 5


@pytest.fixture(scope="module")
def subject() -> tuple[LanguageModel, Tokenizer]:
    tokenizer = Tokenizer.train(TEXTS, 290)
    model = build(shape.from_depth(2, 290, 32, n_embd=32, n_head=2)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2 and not weight.any():
                weight.normal_(0, 0.3, generator=generator)
        model.head.weight.normal_(0, 0.3, generator=generator)
    return model, tokenizer


# ---- transformers ----------------------------------------------------------------------------------------------------


class FakeModel(torch.nn.Module):
    """A causal model as transformers has them: what it says depends on all tokens before, and on no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 50)
        self.config = SimpleNamespace(n_positions=24, max_position_embeddings=None)
        self.device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert not use_cache
        return SimpleNamespace(logits=self.table(input_ids).cumsum(1))


def test_rows_are_padded_without_a_padding_token() -> None:
    net = hf.HfNet(FakeModel())
    asked = [[Span([49, 1, 2, 3], 2), Span([49, 1, 2, 4, 7], 2)], [Span([49, 5], 1)], [Span(list(range(20)), 7)]]
    want = scoring.score_one_by_one(net, asked)
    got = dict(pair for batch in scoring.score(net, asked) for pair in batch)
    for number, results in enumerate(want):
        assert [r.best for r in got[number]] == [r.best for r in results]
        assert [r.nats for r in got[number]] == pytest.approx([r.nats for r in results], rel=1e-4)
    assert net.context == 24


class Layered(FakeModel):
    """A model with a body and an output layer, which `scale` may come behind; counts rows that met the vocabulary."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.scale = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False), scale
        self.config.vocab_size = 50
        self.met = 0
        self.head.register_forward_hook(self._count)

    def _count(self, module: Any, given: Any, out: torch.Tensor) -> None:
        self.met += out[..., 0].numel()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def base_model(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(last_hidden_state=self.table(input_ids).cumsum(1))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        x = self.base_model(input_ids, use_cache).last_hidden_state
        return SimpleNamespace(logits=self.head(x) * self.scale)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_only_places_that_are_asked_about_meet_the_vocabulary(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "_SCORES", 50 * 30)
    model = Layered(scale)
    net = hf.HfNet(model)
    asked = [[Span([1, 2, 3, *range(10, 20)], 12)], [Span([4, 5, 6, *range(20, 30)], 12)]]
    model.met = 0
    got = dict(pair for batch in scoring.score(net, asked) for pair in batch)
    assert (model.met == 2) == (scale == 1.0) and net.most_tokens == (None if scale == 1.0 else 30)
    for number, (span,) in enumerate(asked):
        logits = model(torch.tensor([list(span.ids[:-1])]), use_cache=False).logits[0, -1]
        want = torch.nn.functional.cross_entropy(logits, torch.tensor(span.ids[-1])).detach()
        assert got[number][0].nats == pytest.approx(float(want), rel=1e-4)


def test_a_batch_that_is_too_large_for_memory_is_halved() -> None:
    rows: list[int] = []

    class Small(hf.HfNet):
        def read(self, idx_BT: torch.Tensor) -> torch.Tensor:
            rows.append(len(idx_BT))
            if len(idx_BT) > 2:
                raise torch.OutOfMemoryError
            return super().read(idx_BT)

    net = Small(FakeModel())
    asked = [[Span([49, k, k + 1], 2)] for k in range(7)]
    got = dict(pair for batch in scoring.score(net, asked) for pair in batch)
    want = scoring.score_one_by_one(hf.HfNet(FakeModel()), asked)
    assert sorted(got) == list(range(len(want))) and rows[0] == 7 and max(rows[-2:]) <= 2


@pytest.mark.parametrize(("bos", "eos", "used"), [(1, 2, 1), (None, 2, 2), (None, None, None), (0, 2, 0)])
def test_a_missing_bos_is_the_end_of_text_or_none(bos: int | None, eos: int | None, used: int | None) -> None:
    assert hf.HfCodec(SimpleNamespace(bos_token_id=bos, eos_token_id=eos), "h").bos == used


def gpt2(folder: Path) -> Any:
    """A tiny GPT-2 with random weights and a tokenizer without a BOS of its own, saved as transformers does."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.ByteLevelBPETokenizer()
    inner.train_from_iterator(TEXTS, vocab_size=300, special_tokens=["<|end|>"], show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner._tokenizer, eos_token="<|end|>")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def test_a_model_of_transformers(tmp_path: Path) -> None:
    model, tokenizer = gpt2(tmp_path)
    net, codec, weights = hf.load(tmp_path, torch.device("cpu"), "fp32")
    assert net.most_tokens is None, "its output layer is applied where it is asked for"
    assert net.context == 64 and len(weights) == 64 and codec.bos == tokenizer.eos_token_id
    assert codec.bos is not None
    (whole,) = codec.encode_all(["The cat sat on the mat."])
    assert codec.decode(whole).strip() == "The cat sat on the mat." and codec.bos not in whole
    spans = [[Span([codec.bos, *whole], start)] for start in (1, 4)] + [[Span([codec.bos, *whole[:5]], 3)]]
    for number, (result,) in (pair for batch in scoring.score(net, spans) for pair in batch):
        span = spans[number][0]
        labels = torch.tensor([[-100] * span.start + list(span.ids[span.start :])])
        loss = model(input_ids=torch.tensor([list(span.ids)]), labels=labels).loss
        assert result.mean == pytest.approx(float(loss), rel=1e-4)


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(DamagedArtifact, match="no weights as safetensors"):
        hf.load(tmp_path, torch.device("cpu"), "fp32")


# ---- lm-evaluation-harness -------------------------------------------------------------------------------------------


def by_hand(model: LanguageModel, ids: list[int], start: int) -> float:
    """The log-likelihood of `ids[start:]`, in one forward pass."""
    with torch.no_grad():
        logp = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
    return sum(float(logp[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_a_pair_is_cut_into_tokens_together(subject: Any) -> None:
    _, tokenizer = subject
    span = lm_eval.pair_span(tokenizer, "The cat ", "sat")
    assert span and list(span.ids) == [tokenizer.bos_id, *tokenizer.encode("The cat sat")]
    assert tokenizer.decode(span.ids[span.start :]) == " sat"
    empty = lm_eval.pair_span(tokenizer, "", "The")
    assert empty and empty.start == 1 and lm_eval.pair_span(tokenizer, "The", "") is None


def test_rolling_asks_for_every_token_once(subject: Any) -> None:
    _, tokenizer = subject
    text = " ".join(TEXTS)
    spans = lm_eval.rolling_spans(tokenizer, 32, text)
    asked = [token for span in spans for token in span.ids[span.start :]]
    assert asked == tokenizer.encode(text) and all(len(span.ids) <= 33 for span in spans)
    assert all(len(span.ids) == 33 for span in spans), "each window sees as much before it as fits"
    assert lm_eval.rolling_spans(tokenizer, 32, "") == []


def test_likelihoods_equal_our_own(subject: Any) -> None:
    model, tokenizer = subject
    pairs = [("The cat", " sat"), ("The cat", " apples"), ("The cat", " on the mat."), ("", "red"), ("Ann has", "")]
    spans = [lm_eval.pair_span(tokenizer, *pair) for pair in pairs]
    found = lm_eval.score_spans(model, spans, lm_eval.NULL, "x")
    assert found[-1] is None
    for span, result in zip(spans[:-1], found[:-1], strict=True):
        assert span and result and -result.nats == pytest.approx(by_hand(model, list(span.ids), span.start), abs=1e-4)


def test_until() -> None:
    assert lm_eval.until("a b\nc. d", ["\n", "."]) == "a b"
    assert lm_eval.until("a b", ["\n", ""]) == "a b"


def test_contexts_that_were_cropped_are_counted(subject: Any) -> None:
    model, tokenizer = subject
    told: list[dict[str, Any]] = []
    asked = [("The cat", {"max_gen_toks": 3}), (" ".join(TEXTS), {"max_gen_toks": 3})]
    replies, cropped = lm_eval._replies(model, tokenizer, asked, 8, Listener(told.append))
    assert len(replies) == 2 and cropped == 1
    assert any("1 of 2 contexts" in event.get("text", "") for event in told)


def request(*args: Any) -> Any:
    return SimpleNamespace(args=args)


def test_the_harness_itself(subject: Any, tmp_path: Path) -> None:
    package = pytest.importorskip("lm_eval")
    model, tokenizer = subject
    lm = lm_eval.wrap(model, tokenizer)
    pairs = [("The cat", " sat"), ("The cat", " apples"), ("", "red"), ("Ann has", ""), (" ".join(TEXTS), " red")]
    for pair, (value, greedy) in zip(pairs, lm.loglikelihood([request(*pair) for pair in pairs]), strict=True):
        span = lm_eval.pair_span(tokenizer, *pair)
        cut = span.cropped(33) if span else None
        want = by_hand(model, list(cut.ids), cut.start) if cut else 0.0
        assert value == pytest.approx(want, abs=1e-4) and isinstance(greedy, bool)

    utils = pytest.importorskip("lm_eval.utils")
    text = " ".join(TEXTS)
    (rolled,) = lm.loglikelihood_rolling([request(text)])
    windows = utils.get_rolling_token_windows(tokenizer.encode(text), tokenizer.bos_id, 32, 1)
    pieces = [utils.make_disjoint_window(window) for window in windows]
    assert rolled == pytest.approx(sum(by_hand(model, [*a, *b], len(a)) for a, b in pieces), abs=1e-3)
    assert [Span([*a, *b], len(a)) for a, b in pieces] == lm_eval.rolling_spans(tokenizer, 32, text)

    how = {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}
    replies = lm.generate_until([request("The cat", how), request(text, how), request("red", how)])
    assert len(replies) == 3 and all(isinstance(reply, str) and "\n" not in reply for reply in replies)
    assert package.__version__


TASK = """
task: toy
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list:
  - metric: acc
"""


@pytest.mark.slow
def test_a_task_of_the_harness(subject: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    model, tokenizer = subject
    items = [{"question": "The cat", "choices": ["sat", "red", "has"], "gold": k % 3} for k in range(6)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    path = tmp_path / "toy.yaml"
    path.write_text(TASK.format(data=tmp_path / "data.jsonl"))
    found = lm_eval.run(model, tokenizer, [str(path)], limit=4)
    values = [by_hand(model, [tokenizer.bos_id, *tokenizer.encode(f"The cat {c}")], 3) for c in items[0]["choices"]]
    assert found["limit"] == 4 and found["package"].startswith("lm-eval 0.4") and len(values) == 3
    (task,) = found["tasks"].values()
    assert 0 <= task["metrics"]["acc,none"] <= 1
    with pytest.raises(ConfigError, match="has no task: no-such-task"):
        lm_eval.run(model, tokenizer, ["no-such-task"])
    with pytest.raises(ConfigError, match="what to ask"):
        lm_eval.run(model, tokenizer, [])
