"""Plans: automatic values become numbers, and what cannot work is refused before anything starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import config, files, launch, paths, planning, run_lineage, runs
from nanochat_cli.core.data import downloaded, sources
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, EnvironmentLacks, MissingArtifact
from nanochat_cli.core.settings import BaseTrainConfig, BatchSection, ComputeSection, RlConfig, SftConfig
from tests.core.runs_made import make

CPU = ComputeSection(gpus=0)


@pytest.fixture
def books() -> None:
    """A corpus and a tokenizer, as far as planning looks."""
    for folder, name, facts in (
        (paths.corpus_dir("books"), "manifest.json", {}),
        (paths.tokenizer_dir("books"), "tokenizer.json", {"vocab_size": 1000}),
    ):
        folder.mkdir(parents=True)
        files.write_json(folder / name, facts)


def base(*sets: str) -> BaseTrainConfig:
    return config.resolve(
        BaseTrainConfig, command="train base", env={}, sets=["compute.gpus=0", "corpus.data=books", *sets]
    ).config


def test_automatic_values_become_numbers(books: None) -> None:
    job = planning.make("base", base("horizon.num_iterations=7"))
    cfg = job.config
    assert (job.run, cfg.corpus.tokenizer, cfg.model.max_seq_len, cfg.model.n_embd) == ("books-d4", "books", 256, 256)
    assert (cfg.batch.total_batch_size, cfg.batch.device_batch_size, cfg.horizon.num_iterations) == (16384, 32, 7)
    assert (cfg.model.window_pattern, cfg.model.short_window, cfg.model.rope_base) == ("SSSL", 128, 100_000)
    assert cfg.optim.weight_decay == pytest.approx(0.28 * (16384 / 2**19) * _scaling(12) / _scaling(4), rel=1e-4)
    assert not job.dir.exists(), "planning writes nothing"


def test_the_horizon_follows_the_parameters(books: None) -> None:
    cfg = planning.make("base", base("horizon.target_param_data_ratio=2")).config
    assert cfg.horizon.num_iterations == 2 * _scaling(4) // 16384
    cfg = planning.make("base", base("horizon.target_param_data_ratio=2", "recipe.preset=portable")).config
    assert cfg.horizon.num_iterations == 2 * (1000 * 256 + 12 * 4 * 256**2) // 16384
    everything = ("horizon.ratio_counts=all", "recipe.preset=portable", "horizon.target_param_data_ratio=2")
    cfg = planning.make("base", base(*everything)).config
    assert cfg.horizon.num_iterations == 2 * (2 * 1000 * 256 + 12 * 4 * 256**2) // 16384


def _scaling(depth: int) -> int:
    """Matrices, value gates and head of the default architecture; rows of tables come in 64s."""
    width, gates = 64 * depth, depth // 2 * -(-depth // 2) * 12
    return 12 * depth * width**2 + gates + 1024 * width


def test_the_horizon_follows_the_compute_and_a_step_count_wins(books: None) -> None:
    # 6 per weight but the embedding's, and 12 per layer, channel and position of attention
    flops = 16384 * (6 * (1000 * 256 + 12 * 4 * 256**2) + 12 * 4 * 256 * 256)
    budget = (f"horizon.target_flops={77.4 * flops}", "recipe.preset=portable")
    cfg = planning.make("base", base(*budget)).config
    assert cfg.horizon.num_iterations == 77
    cfg = planning.make("base", base(*budget, "horizon.num_iterations=5")).config
    assert cfg.horizon.num_iterations == 5


@pytest.mark.parametrize("budget", ["target_flops=1", "target_param_data_ratio=0.001"])
def test_a_budget_below_one_step_is_explained(books: None, budget: str) -> None:
    with pytest.raises(ConfigError, match="shorter than one step of 16,384 tokens: target_"):
        planning.make("base", base(f"horizon.{budget}"))


@pytest.mark.parametrize(
    ("batch", "procs", "message", "hint"),
    [
        ({"total_batch_size": 1000}, 1, "total_batch_size 1,000 is not a multiple", "nearest that fit: 768, 1,024"),
        ({"total_batch_size": 512}, 4, "max_seq_len x processes = 256 x 4", "nearest that fit: 1,024"),
        ({"device_batch_size": 5}, 1, "device_batch_size 5 does not divide the 32 rows", "nearest that fits: 4"),
    ],
)
def test_batches_that_do_not_fit_name_the_nearest(batch: dict[str, int], procs: int, message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        planning.settle_batch(BatchSection(**batch), 256, dataclasses.replace(CPU, procs=procs))
    assert caught.value.hint == hint


@pytest.mark.parametrize("procs", [1, 2, 3, 5])
def test_automatic_batches_fit_any_number_of_processes(procs: int) -> None:
    batch = planning.settle_batch(BatchSection(), 256, dataclasses.replace(CPU, procs=procs))
    assert batch.total_batch_size is not None
    assert batch.device_batch_size is not None
    assert batch.total_batch_size % (256 * procs * batch.device_batch_size) == 0


@pytest.mark.parametrize("sets", [("model.n_embd=100", "model.n_head=3"), ("model.n_head=4", "model.n_kv_head=3")])
def test_a_shape_that_does_not_fit_says_which_values_do(books: None, sets: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        planning.make("base", base(*sets))
    assert caught.value.hint


@pytest.mark.parametrize("depth", range(1, 41))
def test_every_depth_works(books: None, depth: int) -> None:
    plain = planning.make("base", base(f"model.depth={depth}", "recipe.preset=portable")).config.model
    assert plain.n_embd == 64 * depth
    modern = planning.make("base", base(f"model.depth={depth}")).config.model
    assert (modern.n_embd, modern.head_dim) == (64 * depth + 64 * (depth % 2), 128)


def test_what_is_missing_names_the_command_that_makes_it() -> None:
    with pytest.raises(MissingArtifact, match="no corpus named: books") as caught:
        planning.make("base", base())
    assert "nanochat data add" in (caught.value.hint or "")
    paths.corpus_dir("books").mkdir(parents=True)
    files.write_json(paths.corpus_dir("books") / "manifest.json", {})
    with pytest.raises(MissingArtifact, match="no tokenizer yet") as caught:
        planning.make("base", base())
    assert caught.value.hint == "nanochat tok train --input books"
    with pytest.raises(MissingArtifact, match="nothing has been trained yet"):
        planning.make("sft", SftConfig())


def saved_model(run: str = "r", steps: tuple[int, ...] = (3, 9)) -> None:
    runs.create(run)
    for step in steps:
        folder = runs.stage_dir(run, "base") / f"step-{step:06d}"
        folder.mkdir(parents=True)
        files.write_json(folder / runs.MANIFEST, {})
        rates = {"matrix_lr": 0.05, "embedding_lr": 0.01, "unembedding_lr": 0.003}
        files.write_json(folder / "config.json", {"model": {"max_seq_len": 64}, "config": {"optim": rates}})


def test_chat_training_starts_from_the_last_step_and_reads_the_files_named(tmp_path: Path) -> None:
    saved_model()
    chats = tmp_path / "c.json"
    chats.write_text("[]")
    cfg = dataclasses.replace(SftConfig(), chats=dataclasses.replace(SftConfig().chats, data=(f"{chats}:2",)))
    settled = planning.make("sft", cfg).config
    assert (settled.source.run, settled.source.source, settled.source.step) == ("r", "base", 9)
    assert settled.chats.data == (f"{chats}:2",)
    with pytest.raises(MissingArtifact, match="no base checkpoint of step: 4") as caught:
        planning.make("sft", planning.with_values(cfg, "source", step=4))
    assert caught.value.hint == "steps: 3, 9"
    with pytest.raises(MissingArtifact, match="no chats to train on"):
        planning.make("sft", SftConfig())


def test_chat_training_takes_the_learning_rates_it_is_not_given_from_its_source(tmp_path: Path) -> None:
    saved_model()
    chats = tmp_path / "c.json"
    chats.write_text("[]")
    cfg = dataclasses.replace(SftConfig(), chats=dataclasses.replace(SftConfig().chats, data=(str(chats),)))
    optim = planning.make("sft", planning.with_values(cfg, "optim", embedding_lr=0.5)).config.optim
    assert (optim.matrix_lr, optim.embedding_lr, optim.unembedding_lr) == (0.05, 0.5, 0.003)
    practice = planning.with_values(RlConfig(compute=CPU), "rl", replay=0.0)
    assert planning.make("rl", practice).config.optim.matrix_lr == 0.05


def sft(tmp_path: Path, **sections: dict[str, Any]) -> SftConfig:
    chats = tmp_path / "c.json"
    chats.write_text("[]")
    cfg = SftConfig(compute=CPU)
    for section, values in {"chats": {"data": (str(chats),)}, **sections}.items():
        cfg = planning.with_values(cfg, section, **values)
    return cfg


def started(job: launch.Plan, step: int) -> None:
    """What a stage leaves after its first checkpoint."""
    runs.create(job.run)
    folder = job.dir / f"step-{step:06d}"
    folder.mkdir(parents=True)
    record = {"model": {"max_seq_len": 64}, "config": config.to_dict(job.config)}
    files.write_json(folder / "config.json", record)
    files.write_json(folder / runs.MANIFEST, {})
    files.write_json(job.dir / "config.json", record)


def test_a_later_stage_can_be_written_into_another_run(books: None, tmp_path: Path) -> None:
    saved_model("a")
    job = planning.make("sft", sft(tmp_path, source={"run": "a"}, output={"into": "b"}))
    assert (job.run, job.config.source.run) == ("b", "a")
    started(job, 5)
    practice = planning.with_values(RlConfig(compute=CPU), "rl", replay=0.0)
    practice = planning.make("rl", planning.with_values(practice, "source", run="b"))
    assert (practice.run, practice.config.source.source, practice.config.source.step) == ("b", "sft", 5)
    assert run_lineage.base_run("b") == run_lineage.base_run("a") == "a"
    with pytest.raises(ConfigError, match="run b has stages of another model: sft"):
        planning.make("base", base("output.run=b"))


def test_a_stage_is_not_written_behind_another_model(tmp_path: Path) -> None:
    saved_model("a")
    saved_model("b")
    with pytest.raises(ConfigError, match=r"run b has stages of its own \(base\)"):
        planning.make("sft", sft(tmp_path, source={"run": "a"}, output={"into": "b"}))
    assert planning.make("sft", sft(tmp_path, source={"run": "b"}, output={"into": "b"})).run == "b"


def test_a_resume_of_a_stage_written_elsewhere(tmp_path: Path) -> None:
    saved_model("a")
    started(planning.make("sft", sft(tmp_path, source={"run": "a"}, output={"into": "b"})), 5)
    typed = sft(tmp_path, source={"run": "b"}, output={"into": "elsewhere"})  # a setting gives way to what is typed
    again = planning.make("sft", typed, resume=True, typed=("source.run",))
    assert (again.run, again.config.source.run, again.config.source.step) == ("b", "a", 9)
    with pytest.raises(ConfigError, match=r"source\.step cannot become: 3"):
        other = sft(tmp_path, source={"run": "b", "step": 3})
        planning.make("sft", other, resume=True, typed=("source.run", "source.step"))


def test_a_damaged_checkpoint_config_is_one_line(tmp_path: Path) -> None:
    saved_model()
    files.write_json(runs.stage_dir("r", "base") / "step-000009" / "config.json", {"model": {"max_seq_len": 64}})
    with pytest.raises(DamagedArtifact, match="lacks the model or its training"):
        planning.make("sft", sft(tmp_path))


@pytest.mark.parametrize(
    ("text", "want"), [("a.json", ("a.json", 1.0)), ("a.json:0.5", ("a.json", 0.5)), ("C:x", ("C:x", 1.0))]
)
def test_weights_of_sources(text: str, want: tuple[str, float]) -> None:
    assert planning.split_weight(text) == want


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        planning.split_weight("a.json:0")


def test_a_resume_keeps_what_the_run_was_started_with(books: None) -> None:
    job = planning.make("base", base("horizon.num_iterations=7", "model.depth=2"))
    record: dict[str, Any] = {"config": config.to_dict(job.config)}
    job.dir.mkdir(parents=True)
    (job.dir / "config.json").write_text(json.dumps(record))
    runs.create(job.run)
    again = planning.make("base", BaseTrainConfig(compute=CPU), resume=True)
    assert (again.run, again.config.model.depth, again.config.horizon.num_iterations) == ("books-d2", 2, 7)
    assert again.resume


def test_practice_mixes_in_what_is_here_or_nothing() -> None:
    saved_model()
    assert planning.make("rl", RlConfig(compute=CPU)).config.chats == RlConfig().chats
    downloaded.add(sources.get("gsm8k"), {}, complete=True)
    found = planning.make("rl", planning.with_values(RlConfig(compute=CPU), "rl", task="gsm8k")).config
    assert found.source.step == 9
    assert found.chats.task == ("gsm8k", "simplespelling=300", "spellingbee=300")
    with pytest.raises(MissingArtifact, match="no chat file"):
        planning.make("rl", planning.with_values(RlConfig(compute=CPU), "chats", data=("gone.json",)))


@pytest.mark.parametrize("replay", [0.0, 0.25])
def test_a_reward_function_is_not_started_without_questions(replay: float, tmp_path: Path) -> None:
    saved_model()
    (tmp_path / "mine.py").write_text("def short(question, reply):\n    return 1.0\n\n\nclass Own: ...\n")
    (tmp_path / "asked.txt").write_text("why?\n")
    cfg = planning.with_values(RlConfig(compute=CPU), "rl", task=f"{tmp_path / 'mine.py'}:short", replay=replay)
    with pytest.raises(MissingArtifact, match="needs questions to ask: short") as caught:
        planning.make("rl", cfg)
    assert "--questions" in (caught.value.hint or "") and "--data" in (caught.value.hint or "")
    planning.make("rl", planning.with_values(cfg, "rl", questions=str(tmp_path / "asked.txt")))
    planning.make("rl", planning.with_values(cfg, "rl", task=f"{tmp_path / 'mine.py'}:Own"))


def test_a_resume_refuses_what_would_make_it_another_run(books: None) -> None:
    job = planning.make("base", base("horizon.num_iterations=7"))
    job.dir.mkdir(parents=True)
    (job.dir / "config.json").write_text(json.dumps({"config": config.to_dict(job.config)}))
    runs.create(job.run)

    def resume(**typed: Any) -> BaseTrainConfig:
        cfg = base(*(f"{path}={value}" for path, value in typed.items()))
        return planning.make("base", cfg, resume=True, typed=typed).config

    with pytest.raises(ConfigError, match=r"horizon.num_iterations cannot become: 9") as caught:
        resume(**{"horizon.num_iterations": 9})
    assert (caught.value.hint or "").startswith("it is 7;")
    free = resume(**{"horizon.num_iterations": 7, "compute.procs": 2, "save.save_every": 3})
    assert (free.compute.procs, free.save.save_every, free.save.keep_last, free.eval.eval_every) == (2, 3, 2, 250)


@pytest.mark.parametrize(
    ("asked", "says"), [("compute.fp8=on", "FP8 needs an NVIDIA GPU"), ("compute.attention=fa3", "CPU: fa3")]
)
def test_what_only_gpus_have_is_refused_before_anything_starts(books: None, asked: str, says: str) -> None:
    with pytest.raises(EnvironmentLacks, match=says) as caught:
        planning.make("base", base(asked))
    assert caught.value.hint


def test_a_stage_of_a_renamed_run_is_resumed_from_where_its_source_is_now() -> None:
    make("old", "base", 10)
    make("old", "sft", 3, parent=("old", "base", 10))
    make("aside", "rl", 2, parent=("old", "sft", 3))
    paths.run_dir("old").rename(paths.run_dir("new"))
    job = planning.make("sft", planning.with_values(SftConfig(compute=CPU), "source", run="new"), resume=True)
    assert (job.run, job.config.source.run, job.config.source.step) == ("new", "new", 10)
    asked = planning.with_values(RlConfig(compute=CPU), "output", into="aside")
    assert planning.make("rl", asked, resume=True).config.source.run == "new"
