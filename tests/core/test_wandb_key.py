"""A key for wandb is found where wandb itself looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat_cli.core import sinks, wandb_key
from nanochat_cli.core.errors import EnvironmentLacks

LOGGED_IN = "machine github.com login me password other\nmachine api.wandb.ai\n  login user\n  password SECRET\n"


def home_with(folder: Path, name: str, text: str) -> dict[str, str]:
    (folder / name).write_text(text)
    return {"HOME": str(folder)}


@pytest.mark.parametrize("name", [".netrc", "_netrc"])
def test_the_file_that_wandb_login_writes(tmp_path: Path, name: str) -> None:
    assert wandb_key.lacking(home_with(tmp_path, name, LOGGED_IN)) is None


def test_the_environment_comes_first_and_may_name_another_file(tmp_path: Path) -> None:
    assert wandb_key.lacking({"WANDB_API_KEY": "k", "HOME": str(tmp_path)}) is None
    (tmp_path / "keys").write_text(LOGGED_IN)
    (tmp_path / "home").mkdir()
    away = {"HOME": str(tmp_path / "home")}
    assert wandb_key.lacking({**away, "NETRC": str(tmp_path / "keys")}) is None
    assert wandb_key.lacking(away) is not None


def test_a_server_of_ones_own_has_a_key_of_its_own(tmp_path: Path) -> None:
    environ = home_with(tmp_path, ".netrc", "machine wandb.lab.org login user password SECRET\n")
    told = wandb_key.lacking(environ)
    assert told is not None and "api.wandb.ai" in told and "SECRET" not in told
    assert wandb_key.lacking({**environ, "WANDB_BASE_URL": "https://wandb.lab.org:8080/x"}) is None
    (tmp_path / ".config" / "wandb").mkdir(parents=True)
    (tmp_path / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = https://wandb.lab.org\n")
    assert wandb_key.lacking(environ) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("machine github.com login me password other\n", "has none for api.wandb.ai"),
        ("machine api.wandb.ai login user password\n", "netrc"),
        ("password before any machine\n", "cannot be read"),
    ],
)
def test_a_file_without_a_key_is_told(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in (wandb_key.lacking(home_with(tmp_path, ".netrc", text)) or "")


def test_tracking_accepts_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EnvironmentLacks, match="wandb has no key") as caught:
        sinks.Wandb.check()
    assert "wandb login" in (caught.value.hint or "")
    (tmp_path / ".netrc").write_text(LOGGED_IN)
    sinks.Wandb.check()
