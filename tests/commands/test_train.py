"""`nanochat train …` and `config show` as a person uses them: exit codes, streams, hints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanochat_cli.core import config, files, paths
from nanochat_cli.core.settings import BaseTrainConfig
from tests.conftest import Cli


@pytest.fixture
def books() -> None:
    for folder, name, facts in (
        (paths.corpus_dir("books"), "manifest.json", {}),
        (paths.tokenizer_dir("books"), "tokenizer.json", {"vocab_size": 1000}),
    ):
        folder.mkdir(parents=True)
        files.write_json(folder / name, facts)


@pytest.mark.parametrize(
    ("argv", "code", "error", "hint"),
    [
        (["train", "base"], 3, "no corpus yet", "nanochat data add"),
        (["train", "sft"], 3, "nothing has been trained yet", "nanochat demo"),
        (["train", "sft", "--data", "absent.json", "--run", "nope"], 3, "nothing has been trained yet", "nanochat"),
        (["train", "base", "--depth", "0"], 2, "model.depth must be at least 1 (--depth): 0", ""),
        (["train", "base", "--depth", "x"], 2, "model.depth must be a whole number (--depth): x", ""),
        (["train", "base", "--precision", "fp8"], 2, "compute.precision must be one of", ""),
        (["train", "base", "--set", "model.dpth=3"], 2, "unknown config key in --set: model.dpth", "model.depth"),
        (["train", "base", "-c", "absent.toml"], 2, "no such config file or recipe: absent.toml", "recipes: demo"),
        (["train", "base", "--bogus"], 2, "no such option: --bogus", "nanochat train base --help"),
        (["train", "base", "--resume"], 3, "nothing to resume", "nanochat train base"),
        (["train", "bass"], 2, "no such command 'bass'", ""),
        (["traim"], 2, "no such command: traim (did you mean train?)", "nanochat --help"),
        (["config", "show", "train", "bass"], 2, "no config for command: train bass", "train base"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_a_hint(cli: Cli, argv: list[str], code: int, error: str, hint: str) -> None:
    done = cli(*argv)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert hint in "\n".join(lines[1:])
    assert len(lines) <= 2


def test_dry_run_shows_the_plan_and_writes_nothing(cli: Cli, books: None) -> None:
    done = cli("train", "base", "--depth", "2", "--gpus", "0", "--num-iterations", "5", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["run"] == "books-d2"
    assert plan["config"]["model"]["n_embd"] == 128
    assert not paths.runs_dir().exists()


def test_dry_run_tells_what_follows_from_the_sizes(cli: Cli, books: None) -> None:
    argv = ("train", "base", "--depth", "2", "--gpus", "0", "--num-iterations", "50", "--dry-run")
    told = json.loads(cli(*argv, "--json").stdout)
    assert {"run", "stage", "dir", "config", "worker", "derived"} == set(told)
    sizes, optim = told["derived"]["parameters"], told["derived"]["optimizer"]
    parts = ("matrices", "head", "embedding", "value_embeds", "scalars")
    assert sizes["total"] == sum(sizes[part] for part in parts)
    assert told["derived"]["training"]["tokens"] == 50 * told["config"]["batch"]["total_batch_size"]
    assert (optim["warmup_steps"], optim["warmdown_steps"]) == (5, 32)
    lines = dict(line.split(maxsplit=1) for line in cli(*argv).stdout.splitlines() if line and line[0] != " ")
    assert f"{sizes['total']:,}: block matrices {sizes['matrices']:,}, head {sizes['head']:,}" in lines["parameters"]
    assert lines["tokens"].startswith("819,200 in 50 steps")
    assert lines["batch"] == "16,384 tokens a step: 32 rows at a time, 2 times"
    assert lines["peak"].startswith("rates     matrix 0.02, embedding ")
    assert lines["schedule"].startswith("5 steps up, the last 32 down to 5%")
    assert lines["weight"].startswith(f"decay   {told['config']['optim']['weight_decay']:.4g}, cosine")


def test_a_preset_shows_every_difference_from_the_default(cli: Cli, books: None) -> None:
    done = cli("train", "base", "--preset", "speedrun", "--gpus", "0", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if "." in line.split(" ")[0])
    assert shown["recipe.preset"] == "speedrun"
    assert (shown["model.depth"], shown["compute.gpus"]) == ("24", "0")
    assert float(shown["horizon.target_param_data_ratio"]) == 8
    told = json.loads(cli("train", "base", "--preset", "speedrun", "--gpus", "0", "--dry-run", "--json").stdout)
    settled = config.from_dict(BaseTrainConfig, told["config"], "told")
    assert set(shown) == set(config.changed(settled))
    given = {path for path in shown if path.startswith(("recipe", "model", "horizon", "compute"))}
    assert {"model.n_embd", "model.value_embeds_every", "horizon.num_iterations"} <= given
    assert not paths.runs_dir().exists()


def test_a_preset_from_the_environment_and_one_that_does_not_exist(cli: Cli, books: None) -> None:
    argv = ("train", "base", "--gpus", "0", "--dry-run", "--json")
    told = json.loads(cli(*argv, env={"NANOCHAT_RECIPE_PRESET": "seed"}).stdout)
    assert (told["config"]["model"]["arch"], told["config"]["optim"]["polar"]) == ("portable", "newton-schulz")
    done = cli(*argv, "--preset", "sped")
    assert (done.returncode, done.stdout) == (2, "")
    for name in ("base", "speedrun", "seed", "portable", "plain", "cpu"):
        assert name in done.stderr


def test_config_show_tells_where_each_value_comes_from(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[model]\ndepth = 7\n")
    done = cli("config", "show", "train", "base", "-c", str(file), "--json", env={"NANOCHAT_COMPUTE_SEED": "5"})
    rows = {row["option"]: row for row in json.loads(done.stdout)}
    assert (rows["model.depth"]["value"], rows["model.depth"]["from"]) == (7, f"--config {file}")
    assert (rows["compute.seed"]["value"], rows["compute.seed"]["from"]) == (5, "NANOCHAT_COMPUTE_SEED")
    assert rows["optim.matrix_lr"]["from"] == "default"


def test_a_base_folder_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("data", "synth", "--documents", "10", env={"NANOCHAT_BASE_DIR": str(tmp_path / "file" / "base")})
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: a file stands where a folder is needed")


@pytest.mark.parametrize(
    ("shell", "file"), [("bash", "nanochat.bash"), ("zsh", "_nanochat"), ("fish", "nanochat.fish")]
)
def test_the_completion_scripts_in_the_tree_are_current(cli: Cli, shell: str, file: str) -> None:
    done = cli("completion", shell)
    assert done.returncode == 0
    assert "_NANOCHAT_COMPLETE" in done.stdout
    kept = Path(__file__).resolve().parents[2] / "completions" / file
    assert kept.read_text() == done.stdout, f"run: nanochat completion {shell} > completions/{file}"


def test_a_shell_asks_for_completions_and_gets_them(cli: Cli) -> None:
    env = {"_NANOCHAT_COMPLETE": "complete_bash", "COMP_WORDS": "nanochat tr", "COMP_CWORD": "1"}
    assert cli(env=env).stdout.split() == ["train"]
    env = {"_NANOCHAT_COMPLETE": "complete_bash", "COMP_WORDS": "nanochat train base --prec", "COMP_CWORD": "3"}
    assert cli(env=env).stdout.split() == ["--precision"]


def test_help_groups_options_by_section(cli: Cli) -> None:
    text = cli("train", "base", "--help").stdout
    assert [line for line in text.splitlines() if line in ("Model:", "Optimizer:", "Compute:", "Common:")] == [
        "Model:",
        "Optimizer:",
        "Compute:",
        "Common:",
    ]
    assert "--depth INT" in text
