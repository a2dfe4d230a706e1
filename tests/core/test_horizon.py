"""One horizon counts: what was typed, and never two."""

from __future__ import annotations

import pytest

from nanochat_cli.core import config, horizon
from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.settings import BaseTrainConfig
from tests.conftest import Cli

STEPS, FLOPS, RATIO = "horizon.num_iterations=7", "horizon.target_flops=1e18", "horizon.target_param_data_ratio=20"


def settled(*sets: str, preset: str | None = None, file: dict[str, object] | None = None) -> BaseTrainConfig:
    typed = [*sets, *([f"recipe.preset={preset}"] if preset else [])]
    found = config.resolve(BaseTrainConfig, command="train base", env={}, sets=typed, recipe=file)
    return horizon.as_typed(found.config, found.typed)


@pytest.mark.parametrize(
    ("sets", "flags"),
    [
        ((STEPS, FLOPS), ("--num-iterations 7", "--target-flops 1e+18")),
        ((STEPS, RATIO), ("--num-iterations 7", "--target-param-data-ratio 20")),
        ((FLOPS, RATIO), ("--target-flops 1e+18", "--target-param-data-ratio 20")),
        ((STEPS, FLOPS, RATIO), ("--num-iterations 7", "--target-flops 1e+18", "--target-param-data-ratio 20")),
    ],
)
def test_two_that_were_typed_are_an_error_that_names_both(sets: tuple[str, ...], flags: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        settled(*sets)
    for flag in flags:
        assert flag in str(caught.value) and flag.split(" ")[0] in (caught.value.hint or "")


def test_what_a_preset_a_file_or_a_default_says_is_no_second_one() -> None:
    assert settled(STEPS, preset="seed").horizon.num_iterations == 7
    assert settled(STEPS).horizon.num_iterations == 7
    assert settled(preset="seed").horizon.target_param_data_ratio == 20
    assert settled(STEPS, "horizon.target_flops=none").horizon.num_iterations == 7


def test_what_is_typed_counts_and_not_what_a_file_says() -> None:
    file: dict[str, object] = {"horizon.num_iterations": 500, "horizon.target_flops": 1e15}
    kept = settled(file=file).horizon
    assert (kept.num_iterations, kept.target_flops) == (500, 1e15)
    flops = settled(FLOPS, file=file).horizon
    assert (flops.num_iterations, flops.target_flops) == (None, 1e18)
    ratio = settled(RATIO, file=file).horizon
    assert (ratio.num_iterations, ratio.target_flops, ratio.target_param_data_ratio) == (None, None, 20)


@pytest.mark.parametrize("command", [("train", "base"), ("plan",)])
def test_on_the_command_line(cli: Cli, command: tuple[str, ...]) -> None:
    done = cli(*command, "--gpus", "0", "--num-iterations", "7", "--target-flops", "1e18")
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert "--num-iterations 7 and --target-flops 1e+18" in error
    assert hint.startswith("hint: leave out --target-flops")
