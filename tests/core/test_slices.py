from __future__ import annotations

import pytest
import torch

from nanochat_cli.core import slices
from nanochat_cli.core.errors import DamagedArtifact
from nanochat_cli.core.slices import Slice


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_any_number_of_parts_is_the_whole(world: int) -> None:
    whole = {"a": torch.arange(35.0).view(5, 7), "b": torch.tensor(3.0), "c": torch.arange(4)}
    files = []
    for rank in range(world):
        flat = whole["a"].reshape(-1)
        share = -(-flat.numel() // world)
        parts = [Slice("a", flat[rank * share : (rank + 1) * share], (5, 7), rank * share)]
        parts += slices.whole({"b": whole["b"], "c": whole["c"]}) if rank == 0 else []
        files.append(slices.for_file(parts))
    found = slices.assembled(files, "x")
    assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)


def test_two_slices_of_one_tensor_in_one_file() -> None:
    parts = [Slice("a", torch.ones(3), (2, 4), 0), Slice("a", torch.zeros(5), (2, 4), 3)]
    assert slices.assembled([slices.for_file(parts)], "x")["a"].tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]


def test_a_missing_part_is_named() -> None:
    one = slices.for_file([Slice("a", torch.ones(3), (2, 4), 0)])
    with pytest.raises(DamagedArtifact, match=r"a part of a is missing: step-9"):
        slices.assembled([one], "step-9")


@pytest.mark.parametrize(("shape", "offset"), [((2, 4), 6), ((9,), 3), ((2, 4), -1)])
def test_parts_that_do_not_fit_are_refused(shape: tuple[int, ...], offset: int) -> None:
    one = slices.for_file([Slice("a", torch.ones(3), (2, 4), 0)])
    other = slices.for_file([Slice("a", torch.ones(3), shape, offset)])
    with pytest.raises(DamagedArtifact, match="do not fit together"):
        slices.assembled([one, other], "x")


@pytest.mark.parametrize("text", ["[", '{"a": 3}', "[1]", '{"a@0": ["a", "x", 0]}'])
def test_metadata_that_makes_no_sense_is_damage(text: str) -> None:
    with pytest.raises(DamagedArtifact):
        slices.assembled([({"a@0": torch.ones(2)}, {"slices": text})], "x")
