"""Every kernel that runs on a CPU against attention written out in fp64, and the way from a name to a kernel."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from nanochat_cli.core import models, registry, settings
from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.core.models import flash, kernel_check, kernel_parts, kernels
from nanochat_cli.core.models.kernel_parts import Sizes
from nanochat_cli.core.models.shape import ModelConfig
from tests.core.models.oracle import CPU, Flash, Gpu, gpu, oracle

__all__ = ["gpu"]
HEADS, WIDTH = 4, 8
SIZES = Sizes(context=24, windows=(5,), n_head=4, n_kv_head=2, head_dim=8)


@cache
def cell(num_tokens: int, share: int, window: int | None) -> tuple[list[Tensor], Tensor, Tensor, tuple[Tensor, ...]]:
    """Inputs (q, k, v), the gradient that comes back, and what the oracle makes of them."""
    generator = torch.Generator().manual_seed(num_tokens)
    heads = (HEADS, HEADS // share, HEADS // share, HEADS)
    *parts, grad = (torch.randn(2, num_tokens, n, WIDTH, generator=generator) for n in heads)
    exact = [x.double().requires_grad_() for x in parts]
    y = oracle(exact[0], exact[1], exact[2], window)
    return parts, grad, y.detach(), torch.autograd.grad(y, exact, grad.double())


@pytest.mark.parametrize("num_tokens", [1, 7, 128, 130])
@pytest.mark.parametrize("share", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 5])
def test_forward_and_backward_equal_the_oracle(num_tokens: int, share: int, window: int | None) -> None:
    parts, grad, want, want_grads = cell(num_tokens, share, window)
    for form in ("fused", "matmul"):
        call = kernels.resolve(form, SIZES, CPU).call
        ours = [x.clone().requires_grad_() for x in parts]
        y = call(ours[0], ours[1], ours[2], window)
        assert torch.allclose(y.double(), want, atol=1e-5), form
        for got, true in zip(torch.autograd.grad(y, ours, grad), want_grads, strict=True):
            assert torch.allclose(got.double(), true, atol=1e-4), form


@pytest.mark.parametrize("share", [1, 2, 4])
def test_flex_equals_the_oracle_in_its_context_and_beside_it(share: int) -> None:
    sizes = Sizes(130, (1, 5), HEADS, HEADS // share, WIDTH)
    call = kernels.flex(sizes, CPU, compiled=False)
    for num_tokens in (130, 128, 7):
        for window in (None, 1, 5):
            (q, k, v), _, want, _ = cell(num_tokens, share, window)
            assert torch.allclose(call(q, k, v, window).double(), want, atol=1e-5), (num_tokens, window)


@pytest.mark.parametrize("form", ["fused", "matmul", "flex"])
def test_a_window_holds_one_key_more_than_its_number(form: str) -> None:
    sizes = Sizes(16, (5,), 2, 2, 4)
    call = kernels.flex(sizes, CPU, compiled=False) if form == "flex" else kernels.resolve(form, sizes, CPU).call
    v = torch.eye(16)[None, :, None, :].expand(1, 16, 2, 16)
    weight_TS = call(torch.zeros(1, 16, 2, 16), torch.zeros(1, 16, 2, 16), v.contiguous(), 5)[0, :, 0]
    assert (weight_TS[12] > 0).nonzero().flatten().tolist() == [7, 8, 9, 10, 11, 12]
    assert (weight_TS[3] > 0).nonzero().flatten().tolist() == [0, 1, 2, 3]


SHAPES: dict[str, dict[str, Any]] = {
    "portable": {},
    "nanochat": {"window_pattern": "SL", "short_window": 5, "value_embeds_every": 2, "smear": True, "backout": True},
}


@pytest.mark.parametrize("arch", ["portable", "nanochat"])
@pytest.mark.parametrize("form", ["fused", "matmul"])
def test_a_compiled_step_is_one_graph(make_model, arch: str, form: str) -> None:
    model = make_model(arch=arch, **SHAPES[arch])
    model.set_attention(form)
    ids = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(0))
    whole = torch.compile(model.hidden, fullgraph=True, dynamic=False, backend="aot_eager")
    assert torch.allclose(whole(ids), model.hidden(ids), atol=1e-4)
    whole(ids).sum().backward()


@pytest.mark.parametrize("arch", ["portable", "nanochat"])
def test_a_model_gives_the_same_by_any_kernel(make_model, arch: str, gpu: Gpu) -> None:
    package = gpu.install("flash_attn")
    model = make_model(arch=arch, **SHAPES[arch])
    ids = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(0))
    found = []
    for form in ("fused", "matmul", "fa2"):
        model.set_attention(form)
        package.calls.clear()
        found.append(model(ids).detach())
    assert torch.allclose(found[0], found[1], atol=1e-3)
    assert torch.allclose(found[0], found[2], atol=1e-3)
    sizes = [call["window_size"] for call in package.calls]
    assert sizes == ([(5, 0), (-1, -1)] if arch == "nanochat" else [(-1, -1)] * 2)


def test_the_windows_of_a_model() -> None:
    config = ModelConfig(n_layer=4, n_head=4, n_kv_head=2, n_embd=32, vocab_size=9, max_seq_len=24)
    assert Sizes.of(config).windows == ()
    short = ModelConfig(**{**config.__dict__, "window_pattern": "SSSL", "short_window": 5})
    assert Sizes.of(short) == Sizes(24, (5,), 4, 2, 8)
    wide = ModelConfig(**{**config.__dict__, "window_pattern": "S", "short_window": 23})
    assert Sizes.of(wide).windows == (), "a window as wide as the context is none"


def test_names_are_the_same_everywhere() -> None:
    assert set(get_args(settings.AttentionForm)) == {"auto", *kernels.FORMS}
    assert registry.names(models) == ["nanochat", "portable"]


# ---- FlashAttention --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "module"),
    [("fa4", "flash_attn.cute"), ("fa3", "flash_attn_interface"), ("fa2", "flash_attn")],
)
@pytest.mark.parametrize("pairs", [False, True])
def test_packages_are_called_as_they_document(form: str, module: str, pairs: bool, gpu: Gpu) -> None:
    package = gpu.install(module, Flash(pairs=pairs))
    gpu.install("cutlass")
    kernel = kernels.resolve(form, SIZES, CPU)
    assert kernel.whole and not kernel.replaces
    assert kernel.identity.startswith("flash-attn")
    (q, k, v), _, want, _ = cell(7, 2, 5)
    package.calls.clear()
    assert torch.allclose(kernel.call(q, k, v, 5).double(), want, atol=1e-5)
    kernel.call(q, k, v, None)
    shapes = {"q": (2, 7, 4, 8), "k": (2, 7, 2, 8), "v": (2, 7, 2, 8), "causal": True}
    assert package.calls == [{**shapes, "window_size": (5, 0)}, {**shapes, "window_size": (-1, -1)}]
    assert kernels.resolve(form, SIZES, CPU) is kernel, "found once"


@pytest.mark.parametrize(
    ("capability", "usable"),
    [((7, 5), ()), ((8, 0), ("fa2",)), ((8, 9), ("fa2",)), ((9, 0), ("fa4", "fa3", "fa2")), ((10, 0), ("fa4", "fa2"))],
)
def test_each_version_has_its_gpus(capability: tuple[int, int], usable: tuple[str, ...], gpu: Gpu) -> None:
    for module in ("flash_attn", "flash_attn.cute", "flash_attn_interface", "cutlass"):
        gpu.install(module)
    gpu.be(*capability)
    found = [f for f in flash.FORMS if kernels.lacking(f, CPU, dtype=torch.bfloat16, head_dim=64) is None]
    assert tuple(found) == usable
    assert all(kernels.lacking(f, CPU, dtype=torch.float32) for f in flash.FORMS), "none of them knows fp32"
    assert all(kernels.lacking(f, CPU, dtype=torch.bfloat16, head_dim=20) for f in flash.FORMS)


def test_what_is_missing_is_told(gpu: Gpu) -> None:
    with pytest.raises(EnvironmentLacks, match="attention kernel fa3 cannot be used here: not installed"):
        kernels.resolve("fa3", SIZES, CPU)
    gpu.install("flash_attn.cute")
    assert kernels.lacking("fa4", CPU) == "needs cutlass, which is not installed"
    assert kernels.lacking("flex", CPU) == "needs triton, which is not installed"
    gpu.be(7, 5)
    assert kernels.lacking("flex", CPU) == "needs compute capability 8.0 or more: 7.5"


def test_no_gpu_no_flash() -> None:
    assert [f for f in kernels.FORMS if kernels.lacking(f, CPU) is None] == ["fused", "matmul"]


def test_a_package_that_is_there_and_broken_says_why(gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.install("flash_attn", Flash(says="no kernel image is available"))
    with pytest.raises(EnvironmentLacks, match="RuntimeError: no kernel image is available"):
        kernels.resolve("fa2", SIZES, CPU)
    (tmp_path / "flash_attn_interface.py").write_text("import a_library_of_another_torch\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(flash, "is_there", kernel_parts.is_there)
    kernels.forget()
    with pytest.raises(EnvironmentLacks, match="ModuleNotFoundError: No module named 'a_library_of_another_torch'"):
        kernels.resolve("fa3", SIZES, CPU)


def test_packages_are_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flash_attn", "flash_attn.cute", "flash_attn.other"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert not kernel_parts.is_there("flash_attn.cute")
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    (tmp_path / "flash_attn" / "cute" / "__init__.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert kernel_parts.is_there("flash_attn.cute")
    assert not kernel_parts.is_there("flash_attn.other")
    assert not kernel_parts.is_there("flash_attn"), "version 4 alone leaves no package of that name"
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise RuntimeError\n")
    sys.path_importer_cache.clear()
    assert kernel_parts.is_there("flash_attn")
    assert "flash_attn" not in sys.modules


def test_a_package_that_cannot_be_traced_is_kept_out_of_the_graph(gpu: Gpu) -> None:
    package = gpu.install("flash_attn")
    traced = package.flash_attn_func

    def opaque(*parts: Tensor, **options: Any) -> Any:
        parts[0].detach().sum().item()  # reads data, as a library in C does
        torch._dynamo.graph_break()
        return traced(*parts, **options)

    sys.modules["flash_attn"].flash_attn_func = opaque  # type: ignore[attr-defined]
    kernel = kernels.resolve("fa2", SIZES, CPU)
    assert not kernel.whole
    (q, k, v), _, want, _ = cell(7, 2, 5)
    around = torch.compile(lambda q, k, v: kernel.call(q + 0, k, v, 5) * 1, backend="aot_eager", dynamic=False)
    assert torch.allclose(around(q, k, v).double(), want, atol=1e-5)


# ---- FlashAttention as torch offers it -------------------------------------------------------------------------------


def packed(calls: list[dict[str, Any]]) -> Any:
    """Torch's attention over packed sequences, as it documents itself."""

    def varlen_attn(
        query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
        *, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        calls.append({"ends": cu_seq_q.tolist(), "window_size": window_size, "gqa": enable_gqa, "most": max_q})
        back, ahead = window_size
        parts = []
        for begin, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
            assert ahead == 0
            q, k, v = (x[None, begin:end] for x in (query, key, value))
            parts.append(oracle(q, k, v, None if back < 0 else back)[0].to(query.dtype))
        return torch.cat(parts)

    return varlen_attn


def test_torch_has_flash_attention_of_its_own(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(flash, "_varlen", lambda: packed(calls))
    monkeypatch.setattr(flash, "_traces", lambda *parts: True)
    kernel = kernels.resolve("fa2", SIZES, CPU)
    assert kernel.identity == f"varlen_attn of torch {torch.__version__}"
    calls.clear()
    for window in (None, 5):
        (q, k, v), _, want, _ = cell(7, 2, window)
        assert torch.allclose(kernel.call(q, k, v, window).double(), want, atol=1e-5)
    assert [c["window_size"] for c in calls] == [(-1, 0), (5, 0)]
    assert calls[0] == {"ends": [0, 7, 14], "window_size": (-1, 0), "gqa": True, "most": 7}
    assert kernels.lacking("fa3", CPU) == "not installed", "torch brings version 2 only"


def test_the_real_call_of_torch_knows_what_we_give_it() -> None:
    function = flash._varlen()
    if function is None:
        pytest.skip("this torch has no windows over packed sequences")
    assert {"window_size", "enable_gqa"} <= set(function.__kwdefaults__)


@pytest.mark.parametrize("right", [True, False])
def test_torch_puts_a_package_behind_its_own_calls(right: bool, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.install("flash_attn_interface", Flash(says="renamed since"))
    active: list[str] = []
    attention: Any = torch.nn.attention
    monkeypatch.setattr(attention, "list_flash_attention_impls", lambda: ["FA3", "FA4"], raising=False)
    monkeypatch.setattr(
        attention, "current_flash_attention_impl", lambda: active[-1] if active else None, raising=False
    )
    monkeypatch.setattr(attention, "activate_flash_attention_impl", active.append, raising=False)
    monkeypatch.setattr(attention, "restore_flash_attention_impl", lambda: active.clear(), raising=False)
    right_call = packed([])

    def wrong_call(*parts: Any, window_size: tuple[int, int], enable_gqa: bool) -> Any:
        return right_call(*parts, window_size=(window_size[0] + 3, 0), enable_gqa=enable_gqa)

    monkeypatch.setattr(flash, "_varlen", lambda: right_call if right else wrong_call)
    monkeypatch.setattr(flash, "_traces", lambda *parts: True)
    wrong = kernel_check.fault("fa3", SIZES, CPU, torch.bfloat16)
    kernel = kernels.resolve("fa3", SIZES, CPU)
    assert kernel.replaces
    assert "renamed since" in kernel.passed_over, "why the package itself was not used"
    assert (wrong is None) == right
    assert active == (["FA3"] if right else []), "a wrong kernel is withdrawn from torch's own calls"


def test_versions_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "version_of", {"flash-attn": "2.8.3"}.get)
    assert flash.versions() == {"fa2": "2.8.3"}
