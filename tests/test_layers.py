"""The rules of the house: imports point one way, and only output.py writes to the terminal."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nanochat_cli"

# Longest matching prefix decides. A file may import from its own layer (inside one package) and from lower ones.
LAYERS = {
    "core.errors": 0,
    "core.config": 0,
    "core.settings": 0,
    "core.paths": 0,
    "core.files": 0,
    "core.registry": 0,
    "core.events": 0,
    "core.cgroups": 0,
    "core.wandb_key": 0,
    "core.cachefile": 0,
    "core.machine": 0,
    "core.units": 0,
    "core.devices": 0,
    "core.interrupts": 0,
    "core.slurm": 0,
    "core.placement": 0,
    "core.failures": 0,
    "core.faults": 0,
    "core.deadline": 0,
    "core.heartbeat": 0,
    "core.unsafe": 0,
    "core.lockholder": 0,
    "core.lockmark": 0,
    "core.runlock": 0,
    "core.claim": 0,
    "core.runs": 1,
    "core.run_lineage": 1,
    "core.run_tags": 1,
    "core.run_names": 1,
    "core.run_state": 1,
    "core.run_details": 1,
    "core.run_diff": 1,
    "core.run_removal": 1,
    "core.run_repair": 2,
    "core.launch": 1,
    "core.supervise": 1,
    "core.sinks": 1,
    "core.models.shape": 1,
    "core.scaling": 1,
    "core.estimate": 1,
    "core.pairing": 1,
    "core.pace": 1,
    "core.leftovers": 1,
    "core.horizon": 1,
    "core.mixtures": 1,
    "core.planning": 1,
    "core.sizing": 1,
    "core.tokenizer": 1,
    "core.data": 1.5,
    "core.sandbox": 1,
    "core.tools": 1,
    "core.dist": 2,
    "core.slices": 2,
    "core.tensorfile": 2,
    "core.models": 2,
    "core.optim": 2,
    "core.stepdirs": 2,
    "core.retention": 2,
    "core.snapshot": 3,
    "core.checkpoint": 3,
    "core.engine": 4,
    "core.tasks": 5,
    "core.eval": 6,
    "core.train": 7,
    "core.report": 8,
    "core.doctor": 8,
    "core.plan": 8,
    "core.benchmark": 8,
    "core.pipeline": 9,
    "output": 10,
    "live": 10,
    "commands": 11,
    "worker": 11,
    "main": 12,
}
LIGHT = ("torch", "numpy", "pyarrow", "rich", "fastapi", "safetensors", "tiktoken")


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> float | None:
    """The layer of a module, or None for package markers that hold no code (`core`, the root)."""
    best = max((p for p in LAYERS if module == p or module.startswith(p + ".")), key=len, default=None)
    return None if best is None else LAYERS[best]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every import of ours in a file as (module below nanochat_cli, whether it is at the top of the file)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nanochat_cli"):
            base = node.module.removeprefix("nanochat_cli").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}" if base else alias.name
                yield (full if is_module(full) else base), id(node) in top
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("nanochat_cli"):
                    yield alias.name.removeprefix("nanochat_cli").lstrip("."), id(node) in top


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    mine = layer(module_of(path))
    if mine is None:
        assert path.name == "__init__.py", f"{path} has no layer: add it to LAYERS"
        return
    for target, _ in imports(path):
        theirs = layer(target)
        assert theirs is None or theirs <= mine, f"{module_of(path)} (L{mine}) imports {target} (L{theirs})"


def test_every_layer_exists() -> None:
    known = {module_of(path) for path in FILES}
    unused = [name for name in LAYERS if name not in known and not any(k.startswith(name + ".") for k in known)]
    assert unused == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_light_files_import_nothing_heavy_at_the_top(path: Path) -> None:
    name = module_of(path)
    layer_is_light = name.startswith("commands") or name in ("main", "output") or (layer(name) or 99) < 1.5
    if not layer_is_light or name.startswith(("core.tokenizer",)):
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [node.module]
        assert not [m for m in found if m.split(".")[0] in LIGHT], f"{name} imports {found} at the top"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_core_does_not_print_or_parse_argv(path: Path) -> None:
    name = module_of(path)
    if not name.startswith("core"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"), name
        if isinstance(node, ast.Import):
            assert not any(a.name.split(".")[0] in ("typer", "argparse", "pickle") for a in node.names), name
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in ("typer", "argparse", "pickle"), name
