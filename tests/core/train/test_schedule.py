from __future__ import annotations

import pytest

from nanochat_cli.core.settings import OptimSection
from nanochat_cli.core.train import schedule


def test_learning_rate_at_the_edges_of_its_ramps() -> None:
    def lr(step: int) -> float:
        return schedule.lr_multiplier(step, 100, warmup=10, warmdown=40, floor=0.2)

    assert [lr(0), lr(4), lr(9), lr(10), lr(59), lr(60)] == pytest.approx([0.1, 0.5, 1, 1, 1, 1])
    assert lr(80) == pytest.approx(0.2 + 0.8 * 20 / 40)
    assert lr(99) == pytest.approx(0.2 + 0.8 / 40)
    assert lr(100) == pytest.approx(0.2)


def test_no_step_is_wasted_on_a_rate_of_zero() -> None:
    for n in (1, 2, 7):
        assert all(schedule.lr_multiplier(s, n, warmup=0, warmdown=n) > 0 for s in range(n))
        assert all(schedule.lr_multiplier(s, n, warmup=n, warmdown=0) > 0 for s in range(n))


def test_overlapping_ramps_are_refused_but_ratios_are_fitted() -> None:
    with pytest.raises(ValueError, match="overlap"):
        schedule.lr_multiplier(0, 10, warmup=6, warmdown=5)
    curves = schedule.plan(10, OptimSection(warmup_ratio=0.6, warmdown_ratio=1.0, final_lr_frac=0))
    assert (curves.warmup, curves.warmdown) == (6, 4)
    assert [curves.lr(s) for s in range(10)] == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 0.75, 0.5, 0.25]
    )


def test_a_later_stage_starts_lower() -> None:
    assert schedule.plan(9, OptimSection(init_lr_frac=0.5, warmdown_ratio=0.0, warmup_steps=0)).lr(0) == 0.5


def test_a_ramp_in_steps_takes_at_most_a_tenth_of_a_short_run() -> None:
    assert schedule.plan(400, OptimSection(warmup_steps=40)).warmup == 40
    assert schedule.plan(60, OptimSection(warmup_steps=40)).warmup == 6


def test_momentum_rises_over_300_steps_or_a_third_of_a_short_run() -> None:
    assert schedule.muon_momentum(0, 10_000) == 0.85
    assert schedule.muon_momentum(150, 10_000) == pytest.approx(0.90)
    assert schedule.muon_momentum(300, 10_000) == schedule.muon_momentum(9_999, 10_000) == 0.95
    assert schedule.muon_momentum(9, 60) < 0.95 == schedule.muon_momentum(20, 60)
    assert schedule.muon_momentum(0, 1) == 0.95


def test_weight_decay_fades_out() -> None:
    assert schedule.weight_decay(0, 10, start=0.2) == 0.2
    assert schedule.weight_decay(5, 10, start=0.2) == pytest.approx(0.1)
    assert schedule.weight_decay(10, 10, start=0.2) == 0.0


def test_epochs_count_rows() -> None:
    assert schedule.epoch_horizon(num_iterations=None, num_epochs=2, num_rows=100, rows_per_step=8).num_steps == 25
    assert schedule.epoch_horizon(num_iterations=None, num_epochs=1, num_rows=3, rows_per_step=8).num_steps == 1
    assert schedule.epoch_horizon(num_iterations=9, num_epochs=1, num_rows=3, rows_per_step=8).num_steps == 9


def test_the_default_curves_of_a_long_run() -> None:
    """Warm-up over 40 steps, the last 65 % down to 5 %; momentum up to 0.97 and down to 0.90; decay as a cosine."""
    curves = schedule.plan(2000, OptimSection(weight_decay=0.28))
    assert [curves.lr(s) for s in (0, 39, 40, 700, 1350, 2000)] == pytest.approx([1 / 40, 1, 1, 1, 0.525, 0.05])
    assert [curves.momentum(s) for s in (0, 200, 400, 700, 1350, 2000)] == pytest.approx(
        [0.85, 0.91, 0.97, 0.97, 0.935, 0.90]
    )
    assert [curves.weight_decay(s) for s in (0, 1000, 2000)] == pytest.approx([0.28, 0.14, 0])


def test_where_momentum_ramps_overlap_the_first_wins() -> None:
    curves = schedule.plan(900, OptimSection(momentum_ramp=300, warmdown_ratio=0.9, warmup_steps=0))
    assert curves.momentum(299) == pytest.approx(0.85 + 0.12 * 299 / 300)
    assert curves.momentum(300) == pytest.approx(0.90 + 0.07 * 600 / 810)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 39, 41, 399, 401])
def test_short_runs_have_a_rate_and_a_momentum_at_every_step(num_steps: int) -> None:
    curves = schedule.plan(num_steps, OptimSection(weight_decay=0.1))
    for step in range(num_steps):
        assert 0 < curves.lr(step) <= 1
        assert 0.85 <= curves.momentum(step) <= 0.97
        assert 0 <= curves.weight_decay(step) <= 0.1
