"""Presets: every file is sound, makes a plan that can start, and has its place among the other sources."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import config, files, paths, plan, planning
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.models import shape
from nanochat_cli.core.settings import BaseTrainConfig, PlanConfig, Preset

NAMES = typing.get_args(Preset)


@pytest.fixture
def books() -> None:
    """A corpus and a tokenizer, as far as planning looks."""
    for folder, name, facts in (
        (paths.corpus_dir("books"), "manifest.json", {}),
        (paths.tokenizer_dir("books"), "tokenizer.json", {"vocab_size": 32_768}),
    ):
        folder.mkdir(parents=True)
        files.write_json(folder / name, facts)


def resolve(**given: Any) -> config.Resolved[BaseTrainConfig]:
    return config.resolve(BaseTrainConfig, command="train base", **{"env": {}, **given})


def with_preset(name: str, *sets: str) -> BaseTrainConfig:
    return resolve(sets=[f"recipe.preset={name}", "corpus.data=books", "compute.gpus=0", *sets]).config


def test_the_names_are_the_files() -> None:
    assert sorted(NAMES) == sorted(path.stem for path in config.presets_dir().glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_holds_options_that_differ_from_the_default_and_says_what_it_is_for(name: str) -> None:
    text = (config.presets_dir() / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    known = {option.path: option for option in config.options(BaseTrainConfig)}
    given = config.flatten(tomllib.loads(text), name)
    assert set(given) <= set(known)
    cfg = resolve(flags={"recipe.preset": name}).config
    tree = config.flatten(config.to_dict(cfg), name)
    for path, raw in given.items():
        assert tree[path] == config.coerce(raw, known[path], name), path
    assert set(config.changed(cfg)) <= {*given, "recipe.preset"}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_makes_a_plan_that_can_start(books: None, name: str) -> None:
    job = planning.make("base", with_preset(name))
    cfg = job.config
    sizes = ("n_embd", "n_head", "head_dim", "max_seq_len")
    assert all(isinstance(getattr(cfg.model, size), int) for size in sizes)
    assert cfg.horizon.num_iterations > 0
    assert cfg.optim.weight_decay is not None
    rows = cfg.batch.total_batch_size // cfg.model.max_seq_len
    assert rows * cfg.model.max_seq_len == cfg.batch.total_batch_size
    assert rows % cfg.batch.device_batch_size == 0
    again = planning.make("base", cfg).config
    assert again == cfg, "a settled config settles to itself"


def test_each_preset_is_the_recipe_that_it_is_named_after(books: None) -> None:
    made = {name: planning.make("base", with_preset(name)).config for name in NAMES}
    plain = planning.make("base", resolve(sets=["corpus.data=books", "compute.gpus=0"]).config).config
    assert dataclasses.replace(made["base"], recipe=plain.recipe) == plain
    assert {name: cfg.model.arch for name, cfg in made.items() if cfg.model.arch != "nanochat"} == {
        "seed": "portable",
        "portable": "portable",
    }
    assert (made["speedrun"].model.depth, made["speedrun"].horizon.target_param_data_ratio) == (24, 8)
    assert made["portable"].optim == dataclasses.replace(
        plain.optim, weight_decay=made["portable"].optim.weight_decay
    ), "the old network with today's optimizer"
    bare = made["plain"].model
    assert (bare.value_embeds_every, bare.smear, bare.backout, bare.residual_scalars) == (0, False, False, True)
    cpu = made["cpu"].model
    assert (cpu.depth, cpu.head_dim, cpu.max_seq_len, cpu.window_pattern) == (6, 64, 512, "L")


@pytest.mark.parametrize(("depth", "steps"), [(20, 21_400), (32, 71_680)])
def test_seed_takes_the_steps_that_its_recipe_took(books: None, depth: int, steps: int) -> None:
    files.write_json(paths.tokenizer_dir("books") / "tokenizer.json", {"vocab_size": 65_536})
    cfg = planning.make("base", with_preset("seed", f"model.depth={depth}", "model.max_seq_len=2048")).config
    assert (cfg.horizon.num_iterations, cfg.batch.total_batch_size) == (steps, 524_288)
    assert (cfg.optim.weight_decay, cfg.optim.grad_clip, cfg.optim.momentum_end) == (0, 1.0, None)
    rates = plan.derived(cfg)["optimizer"]["rates"]
    wide = (depth * 64 / 768) ** -0.5
    assert rates == pytest.approx({"matrix": 0.02, "embedding": 0.2 * wide, "unembedding": 0.004 * wide})


# ---- among the other sources -----------------------------------------------------------------------------------------


def test_what_is_given_beats_the_preset_and_the_preset_beats_the_project_file(tmp_path: Path) -> None:
    project, file = tmp_path / "nanochat.toml", tmp_path / "mine.toml"
    project.write_text(
        "[optim]\nmatrix_lr = 0.5\ngrad_clip = 7\nmomentum = 0.5\nwarmup_steps = 9\n[save]\nkeep_last = 7\n"
    )
    file.write_text("[optim]\nmomentum = 0.6\nwarmup_steps = 8\n")
    found = resolve(
        project_file=project,
        files=[str(file)],
        env={"NANOCHAT_OPTIM_WARMUP_STEPS": "6"},
        flags={"recipe.preset": "seed", "optim.embedding_lr": "0.9"},
        sets=["optim.unembedding_lr=0.8"],
    )
    optim = found.config.optim
    assert optim.grad_clip == 1.0, "the preset beats nanochat.toml"
    assert optim.matrix_lr == 0.5, "of which the rest stays"
    assert found.config.save.keep_last == 7
    assert optim.momentum == 0.6, "-c beats the preset"
    assert optim.warmup_steps == 6, "the environment beats both"
    assert (optim.embedding_lr, optim.unembedding_lr) == (0.9, 0.8), "flags and --set beat all"
    origin = found.origin
    assert (origin["optim.grad_clip"], origin["recipe.preset"]) == ("preset seed", "--preset")
    assert (origin["optim.momentum"], origin["optim.matrix_lr"]) == (f"--config {file}", str(project))


@pytest.mark.parametrize(
    "given",
    [
        {"flags": {"recipe.preset": "seed"}},
        {"sets": ["recipe.preset=seed"]},
        {"sets": [" recipe.preset = seed "]},
        {"sets": ["recipe.preset=cpu", "recipe.preset=seed"]},
        {"env": {"NANOCHAT_RECIPE_PRESET": "seed"}},
        {"recipe": {"recipe.preset": "seed"}},
        {"files": ["{file}"]},
        {"files": ["{other}", "{file}"]},
        {"project_file": "{file}"},
        {"flags": {"recipe.preset": "cpu"}, "sets": ["recipe.preset=seed"]},
        {"flags": {"recipe.preset": "seed"}, "env": {"NANOCHAT_RECIPE_PRESET": "cpu"}},
        {"env": {"NANOCHAT_RECIPE_PRESET": "seed"}, "recipe": {"recipe.preset": "cpu"}},
        {"env": {"NANOCHAT_RECIPE_PRESET": "seed"}, "files": ["{other}"]},
        {"recipe": {"recipe.preset": "seed"}, "files": ["{other}"]},
        {"files": ["{file}"], "project_file": "{other}"},
    ],
    ids=str,
)
def test_the_preset_named_last_in_rank_counts_wherever_it_is_named(tmp_path: Path, given: dict[str, Any]) -> None:
    """Its values are always those of the name that the config ends up with."""
    places = {"{file}": tmp_path / "a.toml", "{other}": tmp_path / "b.toml"}
    places["{file}"].write_text('[recipe]\npreset = "seed"\n')
    places["{other}"].write_text('[recipe]\npreset = "cpu"\n')
    filled = dict(given)
    if "files" in given:
        filled["files"] = [str(places[name]) for name in given["files"]]
    if "project_file" in given:
        filled["project_file"] = places[given["project_file"]]
    cfg = resolve(**filled).config
    assert cfg == resolve(flags={"recipe.preset": "seed"}).config
    assert (cfg.recipe.preset, cfg.optim.polar) == ("seed", "newton-schulz")


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({"flags": {"recipe.preset": "sped"}}, "--preset"),
        ({"sets": ["recipe.preset=sped"]}, "--set"),
        ({"env": {"NANOCHAT_RECIPE_PRESET": "sped"}}, "NANOCHAT_RECIPE_PRESET"),
    ],
)
def test_an_unknown_preset_is_refused_with_the_list(given: dict[str, Any], source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(**given)
    assert str(caught.value) == f"recipe.preset must be one of {', '.join(NAMES)} ({source}): sped"


def test_a_preset_can_be_taken_back() -> None:
    cfg = resolve(flags={"recipe.preset": "none"}, env={"NANOCHAT_RECIPE_PRESET": "seed"}).config
    assert cfg == resolve().config


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_config_with_a_preset_comes_back_whole(books: None, tmp_path: Path, name: str) -> None:
    """Also where a preset has changed since: what was saved wins over what the file says today."""
    cfg = planning.make("base", with_preset(name, "model.depth=3", "optim.warmup_steps=1")).config
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"stage": "base", "config": config.to_dict(cfg)}))
    assert resolve(files=[str(path)]).config == cfg
    assert config.from_dict(BaseTrainConfig, json.loads(path.read_text())["config"], "saved") == cfg


def test_plans_take_presets_too() -> None:
    cfg = config.resolve(PlanConfig, command="train base", env={}, flags={"recipe.preset": "speedrun"}).config
    assert cfg.model.depth == 24


# ---- the dial --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_a_dry_run_tells_is_what_the_optimizer_gets(books: None, name: str) -> None:
    from nanochat_cli.core import optim, scaling
    from nanochat_cli.core.models.build import build

    files.write_json(paths.tokenizer_dir("books") / "tokenizer.json", {"vocab_size": 500})
    sizes = ("model.depth=2", "model.n_embd=128", "model.head_dim=64", "model.max_seq_len=64")
    cfg = planning.make("base", with_preset(name, *sizes, "batch.total_batch_size=4096", "batch.device_batch_size=8"))
    found = plan.derived(cfg.config)
    net = shape.ModelConfig(**found["model"])
    model = build(net)
    by_batch, scaled = scaling.rate_scale(4096), bool(cfg.config.optim.batch_scaling)
    scale, scalars = (by_batch, None) if scaled else (1.0, by_batch)
    optimizer = optim.build(model.param_groups(), cfg.config.optim, batch_scale=scale, scalar_scale=scalars)
    role_of = {id(p): group.role for group in model.param_groups() for p in group.params.values()}
    rates = {role_of[id(entry.param)]: part.lr for part in optimizer.adamws for entry in part.entries.values()}
    assert found["optimizer"]["rates"] == pytest.approx({"matrix": optimizer.muons[0].lr, **rates})
    assert found["optimizer"]["batch_scale"] == scale
    assert found["parameters"]["total"] == model.num_params()
    training = found["training"]
    assert training["tokens"] == 4096 * training["steps"]
    assert training["grad_accum_steps"] == 4096 // (8 * 64)
