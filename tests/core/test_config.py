"""One dataclass field is a flag, a TOML key, an environment name, a saved value and a line of help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import config
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.settings import WORKER_CONFIGS, BaseTrainConfig, RlConfig


def resolve(**given: object) -> config.Resolved[BaseTrainConfig]:
    return config.resolve(BaseTrainConfig, command="train base", **{"env": {}, **given})  # type: ignore[arg-type]


def test_precedence_is_flag_env_file_project_default(tmp_path: Path) -> None:
    project = tmp_path / "nanochat.toml"
    project.write_text("[model]\ndepth = 1\n[optim]\nmatrix_lr = 0.1\n[save]\nkeep_last = 7\n")
    file = tmp_path / "mine.toml"
    file.write_text("[model]\ndepth = 2\n[optim]\nmatrix_lr = 0.2\n[eval]\neval_tokens = 5\n")
    env = {"NANOCHAT_MODEL_DEPTH": "3", "NANOCHAT_OPTIM_MATRIX_LR": "0.3"}
    found = resolve(project_file=project, files=[str(file)], env=env, flags={"model.depth": "4"})
    cfg = found.config
    assert (cfg.model.depth, cfg.optim.matrix_lr, cfg.eval.eval_tokens, cfg.save.keep_last) == (4, 0.3, 5, 7)
    assert cfg.compute.procs == 1
    assert found.origin["model.depth"] == "--depth"
    assert found.origin["optim.matrix_lr"] == "NANOCHAT_OPTIM_MATRIX_LR"
    assert found.origin["eval.eval_tokens"] == f"--config {file}"
    assert found.origin["save.keep_last"] == str(project)
    assert found.origin["compute.procs"] == "default"


def test_the_project_file_may_hold_other_commands_keys_but_no_unknown_ones(tmp_path: Path) -> None:
    project = tmp_path / "nanochat.toml"
    project.write_text("[tok]\nvocab = 512\n[model]\ndepth = 3\n")
    assert resolve(project_file=project).config.model.depth == 3
    project.write_text("[tok]\nvocabulary = 512\n")
    with pytest.raises(ConfigError, match=r"unknown config key in .*nanochat.toml: tok.vocabulary"):
        resolve(project_file=project)


def test_later_config_files_win(tmp_path: Path) -> None:
    for name, depth in (("a", 5), ("b", 6)):
        (tmp_path / f"{name}.toml").write_text(f"[model]\ndepth = {depth}\n")
    assert resolve(files=[str(tmp_path / "a.toml"), str(tmp_path / "b.toml")]).config.model.depth == 6


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("model.dept=3", "unknown config key in --set: model.dept", "did you mean model.depth?"),
        ("depth=3", "unknown config key in --set: depth", "did you mean model.depth?"),
        ("model.depth=deep", "model.depth must be a whole number (--set): deep", None),
        ("model.depth=1.5", "model.depth must be a whole number (--set): 1.5", None),
        ("model.depth=0", "model.depth must be at least 1 (--set): 0", None),
        ("optim.warmup_ratio=1.5", "optim.warmup_ratio must be at most 1 (--set): 1.5", None),
        ("optim.matrix_lr=nan", "optim.matrix_lr must be at least 0 (--set): nan", None),
        ("compute.precision=fp8", "compute.precision must be one of auto, bf16, fp16, fp32 (--set): fp8", None),
        ("model.depth", "--set needs section.key=value: model.depth", None),
    ],
)
def test_a_bad_value_names_option_and_source(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(sets=[text])
    assert (str(caught.value), caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("horizon.num_iterations=1e3", "num_iterations", 1000),
        ("horizon.num_iterations=20_000", "num_iterations", 20000),
        ("horizon.num_iterations=none", "num_iterations", None),
        ("horizon.num_iterations=auto", "num_iterations", None),
        ("horizon.target_flops=1", "target_flops", 1.0),
    ],
)
def test_numbers_as_people_write_them(text: str, path: str, value: object) -> None:
    got = getattr(resolve(sets=[text]).config.horizon, path)
    assert got == value
    assert type(got) is type(value)


def test_lists_come_from_text_and_toml(tmp_path: Path) -> None:
    one = config.resolve(RlConfig, command="train rl", env={}, sets=["rl.families=add,sub"]).config
    (tmp_path / "l.toml").write_text('[rl]\nfamilies = ["add", "sub"]\n')
    two = config.resolve(RlConfig, command="train rl", env={}, files=[str(tmp_path / "l.toml")]).config
    assert one.rl.families == two.rl.families == ("add", "sub")


@pytest.mark.parametrize("stage", WORKER_CONFIGS)
def test_saved_config_comes_back_equal(stage: str, tmp_path: Path) -> None:
    cls = WORKER_CONFIGS[stage]
    cfg = config.resolve(cls, command="x", env={}, sets=["compute.seed=9"]).config
    saved = json.loads(json.dumps(config.to_dict(cfg)))
    assert config.from_dict(cls, saved, "saved") == cfg
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"stage": stage, "config": saved}))
    assert config.resolve(cls, command="x", env={}, files=[str(path)]).config == cfg
    assert config.changed(cfg) == {"compute.seed": 9}


def test_saved_config_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown config key in saved: model\.layers"):
        config.from_dict(BaseTrainConfig, {"model": {"layers": 3}}, "saved")


@pytest.mark.parametrize("stage", WORKER_CONFIGS)
def test_flags_do_not_collide(stage: str) -> None:
    flags = [name for o in config.options(WORKER_CONFIGS[stage]) for name in (o.flag, o.short) if name]
    assert len(flags) == len(set(flags))
    assert all(o.help.endswith(".") and o.help[0].isupper() for o in config.options(WORKER_CONFIGS[stage]))


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[model\n")
    with pytest.raises(ConfigError, match="cannot read config"):
        resolve(files=[str(path)])
    path.write_text("depth = 3\n")
    with pytest.raises(ConfigError, match="outside any section"):
        resolve(files=[str(path)])
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ConfigError, match="it holds no sections"):
        resolve(files=[str(tmp_path / "list.json")])
    with pytest.raises(ConfigError, match="no such config file or recipe: absent"):
        resolve(files=["absent"])


def test_a_recipe_serves_its_own_command() -> None:
    base = resolve(files=["demo"]).config
    assert base.horizon.num_iterations is not None
    assert base != resolve().config


def test_a_misspelt_variable_is_reported_and_what_is_no_option_is_left_alone() -> None:
    with pytest.raises(ConfigError, match="in the environment: NANOCHAT_MODEL_DEPHT") as caught:
        resolve(env={"NANOCHAT_MODEL_DEPHT": "3"})
    assert caught.value.hint == "did you mean NANOCHAT_MODEL_DEPTH?"
    with pytest.raises(ConfigError, match="NANOCHAT_MODLE_DEPTH"):
        resolve(env={"NANOCHAT_MODLE_DEPTH": "3"})
    assert resolve(env={"NANOCHAT_BASE_DIR": "/x", "NANOCHAT_DEBUG": "1", "NANOCHAT_TOK_VOCAB": "300"}).config


@pytest.mark.parametrize(
    ("text", "value"), [("auto", "auto"), ("8", 8), ("0", 0), ("none", None), (4, 4)], ids=lambda v: repr(v)
)
def test_a_number_or_a_word(text: Any, value: Any) -> None:
    found = config.resolve(BaseTrainConfig, command="train base", env={}, flags={"compute.gpus": text}).config
    assert found.compute.gpus == value
    saved = json.loads(json.dumps(config.to_dict(found)))
    assert config.from_dict(BaseTrainConfig, saved, "saved") == found


@pytest.mark.parametrize("text", ["all", "AUTO", "1.5", "-1"])
def test_neither_a_number_nor_that_word(text: str) -> None:
    with pytest.raises(ConfigError, match=r"compute.gpus must be (a whole number or auto|at least 0) "):
        config.resolve(BaseTrainConfig, command="train base", env={}, flags={"compute.gpus": text})
