"""Pickles are refused by name, by content and by folder, and none of their code ever runs."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nanochat_cli.core import checkpoint, run_names, runs, stepdirs, unsafe
from nanochat_cli.core.errors import ConfigError, DamagedArtifact, NewerVersion
from tests.core.runs_made import make


class Bomb:
    def __reduce__(self) -> object:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_known_by_its_first_bytes(protocol: int, tmp_path: Path) -> None:
    assert unsafe.is_pickle(pickle.dumps(Bomb(), protocol)[:16])
    torch.save({"x": torch.ones(1)}, tmp_path / "zip")
    torch.save({"x": torch.ones(1)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert unsafe.is_pickle((tmp_path / "zip").read_bytes()[:16]) and unsafe.is_pickle(
        (tmp_path / "old").read_bytes()[:16]
    )


def test_safetensors_are_none_whatever_their_length(tmp_path: Path) -> None:
    for count in range(1, 40):  # lengths of the header whose first byte is 0x80 among them
        save_file({f"t{i}" + "x" * count: torch.ones(1) for i in range(count)}, tmp_path / "a.safetensors")
        unsafe.refuse_file(tmp_path / "a.safetensors")
    for low in range(256):
        assert not unsafe.is_pickle(bytes([low, 2, 0, 0, 0, 0, 0, 0]) + b'{"x":')


def test_a_pickle_in_a_checkpoint_is_refused_under_any_name() -> None:
    folder = make("r", "base", 1, 2)
    path = folder / "step-000002"
    (path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    (path / runs.MANIFEST).unlink()
    stepdirs.seal(path, step=2)  # whoever puts it there can also hash it
    with pytest.raises(DamagedArtifact, match="is a pickle by another name, which can run any code") as caught:
        stepdirs.verify(path)
    assert "safetensors.torch.save_file" in (caught.value.hint or "")
    with pytest.raises(DamagedArtifact, match="pickle by another name"):
        checkpoint._read_tensors(path / "model.safetensors")
    assert stepdirs.newest_good(folder).name == "step-000001"
    for name in ("pytorch_model.bin", "model.PT", "tokenizer/tokenizer.pkl"):
        extra = folder / "step-000001" / name
        extra.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(DamagedArtifact, match="holds a pickle"):
            stepdirs.verify(extra.parents[len(Path(name).parts) - 1])
        extra.unlink()
    assert not Path("exploded").exists()


def test_a_pickle_where_a_run_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile("model.pt", "w"):
        pass
    for name in ("model.pt", "model_000100.pth", str(tmp_path / "x.pkl")):
        with pytest.raises(ConfigError, match="this would be a pickle, which can run any code when it is loaded"):
            run_names.resolve(name)
    Path("d20").mkdir()
    Path("d20/model_021400.pt").touch()
    with pytest.raises(ConfigError, match="this folder holds a pickle"):
        run_names.resolve("./d20")


def test_a_newer_form_is_named_with_its_version_and_never_gone_behind() -> None:
    folder = make("r", "base", 1, 2)
    path = folder / "step-000002" / runs.MANIFEST
    manifest = json.loads(path.read_text())
    assert manifest["version"] == checkpoint.__version__
    path.write_text(json.dumps({**manifest, "format": 7, "version": "3.1"}))
    with pytest.raises(NewerVersion, match=r"written by a newer nanochat \(3\.1\), this is") as caught:
        stepdirs.newest_good(folder)
    assert caught.value.exit_code == 4 and "upgrade" in (caught.value.hint or "")
    assert stepdirs.newest_good(folder, 1).name == "step-000001"
