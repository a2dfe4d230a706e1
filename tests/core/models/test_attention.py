"""The decode cache: rows of different lengths, chunks, copies of rows, and the long-context angle table."""

from __future__ import annotations

import pytest
import torch

from nanochat_cli.core.models.attention import KVState


def prompts(seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (3, 20), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
@pytest.mark.parametrize("cuts", [[20], [1] * 20, [7, 1, 9, 3]])
def test_any_cut_of_a_sequence_gives_the_full_pass(make_model, n_kv_head: int, cuts: list[int]) -> None:
    model = make_model(n_kv_head=n_kv_head)
    idx = prompts()
    state = model.new_state(3, 20)
    with torch.no_grad():
        parts = [model(chunk, state) for chunk in idx.split(cuts, dim=1)]
        assert torch.allclose(torch.cat(parts, 1), model(idx), atol=1e-4)
    assert state.length_B.tolist() == [20, 20, 20]


@torch.no_grad()
def test_right_padded_prefill_then_decoding_at_each_rows_own_place(make_model) -> None:
    model, idx = make_model(n_kv_head=2), prompts()
    lengths = torch.tensor([5, 9, 2])
    padded = idx[:, :9].clone()
    padded[torch.arange(9) >= lengths[:, None]] = 60
    state = model.new_state(3, 13)
    model(padded, state)
    state.set_lengths(lengths)
    for step in range(4):
        next_B1 = idx[torch.arange(3), lengths + step][:, None]
        got = model(next_B1, state)[:, 0]
        for row, length in enumerate(lengths.tolist()):
            want = model(idx[row : row + 1, : length + step + 1])[0, -1]
            assert torch.allclose(got[row], want, atol=1e-4), (row, step)


@torch.no_grad()
def test_rows_can_be_dropped_repeated_and_then_go_separate_ways(make_model) -> None:
    model, idx = make_model(), prompts()
    state = model.new_state(3, 12)
    model(idx[:, :6], state)
    fork = state.select(torch.tensor([2, 0, 2]))
    got = model(torch.tensor([[1], [2], [3]]), fork)[:, 0]
    for row, (source, token) in enumerate([(2, 1), (0, 2), (2, 3)]):
        full = torch.cat((idx[source, :6], torch.tensor([token])))[None]
        assert torch.allclose(got[row], model(full)[0, -1], atol=1e-4)
    assert state.length_B.tolist() == [6, 6, 6], "the original is untouched"
    assert torch.allclose(model(idx[:, 6:7], state)[:, 0], model(idx[:, :7])[:, -1], atol=1e-4)


@torch.no_grad()
def test_a_full_state_says_so(make_model) -> None:
    model = make_model()
    state = model.new_state(3, 6)
    with pytest.raises(ValueError, match="7 of 6"):
        model(prompts()[:, :7], state)


@torch.no_grad()
def test_angles_reach_beyond_the_first_table_without_changing(make_model) -> None:
    model = make_model(max_seq_len=4)
    before = model.rotary.cos_SD.clone()
    state = model.new_state(1, 100)
    assert isinstance(state, KVState)
    idx = torch.randint(61, (1, 100), generator=torch.Generator().manual_seed(0))
    logits = model(idx, state)
    assert torch.equal(model.rotary.cos_SD[: len(before)], before)
    assert torch.allclose(logits, model(idx), atol=1e-4)


def test_cache_is_kept_in_the_arithmetic_of_the_model(make_model) -> None:
    model = make_model()
    model.set_precision("bf16")
    assert model.new_state(1, 4).k_LBKSD.dtype == torch.bfloat16
