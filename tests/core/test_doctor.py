"""The doctor: finds what is missing, never falls ill, leaves nothing behind."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat_cli import main
from nanochat_cli.core import doctor, machine


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    for name in (*doctor._ISA_CAPS, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return folder


def named(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_this_machine_is_ready(base: Path) -> None:
    found = doctor.examine()
    assert doctor.failures(found) == []
    names = {"python", "torch", "native tokenizer", "cores", "memory", "base folder", "disk", "compiler"}
    assert names <= set(named(found))
    assert not base.exists()  # looking creates nothing
    assert all(check.hint for check in found if check.status != "ok")


def test_unwritable_base_folder_is_a_failure(base: Path) -> None:
    base.write_text("a file stands here")
    check = named(doctor.examine())["base folder"]
    assert check.status == "fail" and "NANOCHAT_BASE_DIR" in check.hint and str(base) in check.found


def test_missing_torch_and_native_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *rest: object) -> object:
        raise ImportError(f"no {name} here")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    monkeypatch.setattr(importlib, "import_module", absent)
    broken = {check.name for check in doctor.failures(doctor.examine())}
    assert {"torch", "native tokenizer", "packages"} <= broken


def test_missing_compiler_and_capped_processor_are_warnings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(machine, "physical_cores", lambda: 4)
    found = named(doctor.examine())
    for name in ("compiler", "instruction set", "cores"):
        assert found[name].status == "warn" and found[name].hint
    assert doctor.failures(list(found.values())) == []


def test_compiler_that_cannot_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "cannot compile" in named(doctor.examine())["compiler"].found


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("no such counter")

    monkeypatch.setattr(machine, "total_memory", broken)
    check = named(doctor.examine())["memory"]
    assert check.status == "warn" and "no such counter" in check.found


def test_optional_packages_are_declared_ones() -> None:
    groups = doctor._optional_packages()
    assert "fastapi" in groups["serve"] and "dev" not in groups


def test_command(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["doctor", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {"name", "status", "found", "hint"} == set(checks[0])
    base.write_text("not a folder")
    assert main.run(["doctor", "--json"]) == 4
    captured = capsys.readouterr()
    assert captured.err.startswith("error: not ready: base folder\nhint: ") and json.loads(captured.out)
    assert main.run(["doctor", "-q"]) == 4
    assert "→ set NANOCHAT_BASE_DIR" in capsys.readouterr().out


def test_machine_facts() -> None:
    facts = machine.describe()
    assert facts["cores"] >= 1 and facts["cpu"] and json.dumps(facts)


def test_what_waits_for_a_program_waits_beside_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    compiling = threading.Event()

    def slow_compiler(compiler: str) -> bool:
        return compiling.wait(10)

    def devices() -> Iterator[doctor.Check]:
        compiling.set()  # told after the compiler: one after the other, its wait would end in vain
        yield doctor.Check(name="gpu", status="ok", found="x")

    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(doctor, "_compiles", slow_compiler)
    monkeypatch.setattr(doctor, "_devices", devices)
    checks = doctor.examine()
    names = [check.name for check in checks]
    assert named(checks)["compiler"].status == "ok"
    assert names.index("torch") < names.index("compiler") < names.index("gpu"), "told in the usual order"


def test_the_kernel_survey_does_without_what_takes_long_to_import() -> None:
    code = (
        "import sys, torch; from nanochat_cli.core.models import kernel_check; found = kernel_check.survey("
        "torch.device('cpu')); assert any(f.identity for f in found); sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
