"""Looks at this machine and says what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanochat_cli import __version__
from nanochat_cli.core import files, machine, paths
from nanochat_cli.core.errors import NanochatError

Status = Literal["ok", "warn", "fail"]
MIN_PYTHON, MIN_TORCH = (3, 11), (2, 9)
DEMO_DISK, DEMO_MEMORY = 500_000_000, 2_000_000_000
"""Bytes that `nanochat demo` needs."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at. `fail` means that nothing works without it, `warn` that something is slower or left out."""

    name: str
    status: Status
    found: str
    hint: str = ""


def examine() -> list[Check]:
    """Every check, in the order of a first look at a machine. A check that breaks is itself a finding.

    What waits for another program does so while torch is imported, which takes the longest.
    """
    software = (_python, _packages, _torch, _native, _compiler)
    looks = (*software, _devices, _attention, _instructions, _cores, _memory, _base_dir, _extras)
    with ThreadPoolExecutor(len(_WAITING)) as beside:
        begun = {look: beside.submit(_looked, look) for look in _WAITING}
        found = {look: _looked(look) for look in looks if look not in begun}
        found |= {look: waited.result() for look, waited in begun.items()}
    return [check for look in looks for check in found[look]]


def _looked(look: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(look())
    except Exception as problem:  # a doctor must not fall ill
        name = look.__name__.strip("_").replace("_", " ")
        return [Check(name=name, status="warn", found=f"could not be checked: {problem}")]


def failures(checks: list[Check]) -> list[Check]:
    """The checks that nothing works without."""
    return [check for check in checks if check.status == "fail"]


# ---- Python and packages ---------------------------------------------------------------------------------------------


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= MIN_PYTHON
    hint = "" if good else f"install Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer"
    yield Check(name="python", status="ok" if good else "fail", found=f"{version} at {sys.executable}", hint=hint)
    yield Check(name="nanochat", status="ok", found=__version__)


def _packages() -> Iterator[Check]:
    needed = ("numpy", "typer", "rich", "tiktoken", "pyarrow", "httpx", "safetensors", "platformdirs")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        yield Check(name="packages", status="fail", found=f"missing: {', '.join(absent)}", hint="pip install nanochat")
    else:
        yield Check(name="packages", status="ok", found=f"all {len(needed)} present")


def _torch() -> Iterator[Check]:
    if importlib.util.find_spec("torch") is None:
        yield Check(name="torch", status="fail", found="not installed", hint="pip install torch")
        return
    try:
        torch = importlib.import_module("torch")
    except Exception as problem:
        yield Check(name="torch", status="fail", found=f"cannot be imported: {problem}", hint="reinstall torch")
        return
    version = torch.__version__
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    good = numbers >= MIN_TORCH
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    hint = "" if good else f"pip install 'torch>={MIN_TORCH[0]}.{MIN_TORCH[1]}'"
    yield Check(name="torch", status="ok" if good else "fail", found=f"{version}, {build}", hint=hint)


# ---- devices ---------------------------------------------------------------------------------------------------------


def _devices() -> Iterator[Check]:
    torch = _torch_or_none()
    if torch is None:
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if facts.major >= 8 else "no bf16: fp32 is used"
            text = f"{facts.name}, {facts.total_memory / machine.GIB:.0f} GiB, sm_{facts.major}{facts.minor}, {bf16}"
            yield Check(name=f"gpu {index}", status="ok" if facts.major >= 8 else "warn", found=text)
        triton = importlib.util.find_spec("triton") is not None
        hint = "" if triton else "pip install triton"
        text = "present" if triton else "missing: training runs uncompiled"
        yield Check(name="triton", status="ok" if triton else "warn", found=text, hint=hint)
    elif seen := machine.gpus():  # asked only here: the driver's tool may take seconds
        names = ", ".join(gpu["name"] for gpu in seen)
        yield Check(
            name="gpu",
            status="warn",
            found=f"{names}, which this torch cannot use",
            hint="install a torch build with CUDA for your driver",
        )
    elif torch.backends.mps.is_available():
        yield Check(name="gpu", status="ok", found="Apple GPU (MPS)")
    else:
        yield Check(name="gpu", status="ok", found="none: everything runs on the CPU")


def _attention() -> Iterator[Check]:
    """Which attention kernels work on the first device, and why the others do not: each is really tried."""
    torch = _torch_or_none()
    if torch is None:
        return
    kernels = importlib.import_module("nanochat_cli.core.models.kernels")
    on_gpu = torch.cuda.is_available()
    found = importlib.import_module("nanochat_cli.core.models.kernel_check").survey(
        torch.device("cuda" if on_gpu else "mps" if torch.backends.mps.is_available() else "cpu")
    )
    good = ", ".join(f"{f.form} ({f.identity})" for f in found if f.identity)
    why = [f for f in found if f.reason and (on_gpu or f.there)]
    text = f"{good or 'no kernel works'}" + "".join(
        f"; {'passed over for' if f.identity else 'no'} {f.form}: {f.reason}" for f in why
    )
    broken = [f for f in found if f.there and f.reason]
    fast = not on_gpu or any(f.identity for f in found if f.form in kernels.WINDOWED)
    hint = "" if fast else "pip install flash-attn, or flash-attn-4 on Hopper and Blackwell: short windows need one"
    if broken and fast:
        hint = f"reinstall or remove the package of {broken[0].form} for this torch"
    yield Check(name="attention", status="ok" if fast and not broken else "warn", found=text, hint=hint)


def _instructions() -> Iterator[Check]:
    flags = machine.cpu_flags()
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16") if name in flags]
    capped = [f"{name}={os.environ[name]}" for name in _ISA_CAPS if os.environ.get(name)]
    text = f"{machine.cpu_name()}: {', '.join(known) or 'no vector extension known to us'}"
    yield Check(name="processor", status="ok", found=text)
    fast = bool({"avx512_bf16", "amx_bf16", "bf16"} & flags)
    yield Check(
        name="bf16 on the cpu",
        status="ok",
        found="in hardware, tried at the start of training" if fast else "not in hardware: training uses fp32",
    )
    if capped:
        hint = "unset it, unless you want to try an older processor's speed"
        yield Check(name="instruction set", status="warn", found=f"limited by {', '.join(capped)}", hint=hint)


_ISA_CAPS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def _torch_or_none() -> Any:
    try:
        return importlib.import_module("torch")
    except Exception:
        return None


# ---- tools -----------------------------------------------------------------------------------------------------------


def _compiler() -> Iterator[Check]:
    named = os.environ.get("CXX")
    found = next((path for name in (named, "g++", "clang++", "c++") if name and (path := shutil.which(name))), None)
    hint = "install g++ or clang: compiled training is 1.2 to 1.5 times faster on a CPU"
    if found is None:
        yield Check(name="compiler", status="warn", found="no C++ compiler: training runs uncompiled", hint=hint)
    elif not _compiles(found):
        yield Check(name="compiler", status="warn", found=f"{found} cannot compile a program", hint=hint)
    else:
        yield Check(name="compiler", status="ok", found=found)


def _compiles(compiler: str) -> bool:
    """Whether a small program with a standard header compiles: a compiler without headers is a common half-install."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "try.cpp")
        source.write_text("#include <vector>\nint main() { return (int)std::vector<int>().size(); }\n")
        try:
            done = subprocess.run(
                [compiler, "-c", str(source), "-o", str(source.with_suffix(".o"))], capture_output=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return done.returncode == 0


_WAITING = (_compiler,)


def _native() -> Iterator[Check]:
    try:
        module = importlib.import_module("nanochat_cli._bpe")
    except ImportError as problem:
        hint = "pip install . (needs a Rust compiler), or install a wheel"
        yield Check(name="native tokenizer", status="fail", found=f"cannot be loaded: {problem}", hint=hint)
    else:
        yield Check(name="native tokenizer", status="ok", found=str(module.__file__))


# ---- room ------------------------------------------------------------------------------------------------------------


def _cores() -> Iterator[Check]:
    cores, asked = machine.physical_cores(), os.environ.get("OMP_NUM_THREADS")
    logical = machine.usable_cores()
    text = f"{cores}" + (f" with {logical} hardware threads" if logical > cores else "")
    text += f", OMP_NUM_THREADS={asked}" if asked else ""
    few = bool(asked and asked.isdigit() and int(asked) < cores)
    hint = "unset OMP_NUM_THREADS to use all cores" if few else ""
    yield Check(name="cores", status="warn" if few else "ok", found=text, hint=hint)


def _memory() -> Iterator[Check]:
    total, free = machine.total_memory(), machine.free_memory()
    if not total:
        yield Check(name="memory", status="ok", found="unknown")
        return
    low = bool(free) and free < DEMO_MEMORY
    text = f"{total / machine.GIB:.1f} GiB" + (f", {free / machine.GIB:.1f} GiB free" if free else "")
    hint = "close other programs: the demo takes about 2 GB" if low else ""
    yield Check(name="memory", status="warn" if low else "ok", found=text, hint=hint)


def _base_dir() -> Iterator[Check]:
    folder = paths.base_dir()
    choose = "set NANOCHAT_BASE_DIR to a folder that you can write to"
    try:
        _try_to_write(folder)
    except (OSError, NanochatError) as problem:
        yield Check(name="base folder", status="fail", found=f"cannot write to {folder}: {problem}", hint=choose)
        return
    yield Check(name="base folder", status="ok", found=str(folder))
    free = files.free_space(folder)
    low = free < DEMO_DISK
    hint = "free some space, or set NANOCHAT_BASE_DIR to a larger disk" if low else ""
    yield Check(name="disk", status="warn" if low else "ok", found=f"{free / 1e9:.1f} GB free", hint=hint)


def _try_to_write(folder: Path) -> None:
    """Write and delete a small file in the folder, or in the nearest parent that exists; create nothing lasting."""
    while not folder.exists():
        folder = folder.parent
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".nanochat-doctor-") as handle:
        handle.write(b"x")
        handle.flush()


def _extras() -> Iterator[Check]:
    """Optional groups of packages, as the installed package declares them; leaving one out is no fault."""
    for name, wanted in _optional_packages().items():
        absent = [package for package in wanted if not _installed(package)]
        text = f"not installed, optional: {', '.join(absent)}" if absent else "present"
        hint = f"pip install 'nanochat[{name}]'" if absent else ""
        yield Check(name=f"extra {name}", status="ok", found=text, hint=hint)


_REQUIREMENT = re.compile(r"""([\w.-]+).*;.*extra\s*==\s*["'](\w+)["']""")


def _optional_packages() -> dict[str, list[str]]:
    """Extra → package names, without the one for developing nanochat itself."""
    groups: dict[str, list[str]] = {}
    try:
        declared = importlib.metadata.requires("nanochat") or []
    except importlib.metadata.PackageNotFoundError:
        declared = []
    for match in map(_REQUIREMENT.match, declared):
        if match and match[2] != "dev":
            groups.setdefault(match[2], []).append(match[1])
    return groups


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
