"""Checkpoints in formats that run code when they are read: recognised by name and content, never opened as such."""

from __future__ import annotations

from pathlib import Path

from nanochat_cli.core.errors import ConfigError, DamagedArtifact

SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib")
_HINT = (
    "if you trust where it comes from, load it there with torch.load(…, weights_only=True) and write its tensors with "
    "safetensors.torch.save_file; nanochat reads safetensors only"
)
_WHY = "which can run any code when it is loaded"


def is_pickle(head: bytes) -> bool:
    """Return whether a file that begins with these bytes (9 or more) is a pickle, or a zip archive as torch writes it.

    A safetensors file begins with the length of its header in eight bytes, which may look like anything, and a brace.
    """
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:
        return False
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def refuse_file(path: Path) -> None:
    """Raise DamagedArtifact if a file of a checkpoint is a pickle, by its name or by how it begins."""
    if path.suffix.lower() in SUFFIXES:
        raise DamagedArtifact(f"checkpoint holds a pickle, {_WHY}: {path}", hint=_HINT)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return
    if is_pickle(head):
        raise DamagedArtifact(f"checkpoint file is a pickle by another name, {_WHY}: {path}", hint=_HINT)


def refuse_as_name(text: str) -> None:
    """Raise ConfigError if a path to a pickle, or to a folder that holds one, is given where a run is to be named."""
    path = Path(text).expanduser()
    if path.suffix.lower() in SUFFIXES:
        raise ConfigError(f"this would be a pickle, {_WHY}: {text}", hint=_HINT)
    if "/" not in text or not path.is_dir():
        return
    inside = next((child for child in sorted(path.iterdir()) if child.suffix.lower() in SUFFIXES), None)
    if inside is not None:
        raise ConfigError(f"this folder holds a pickle, {_WHY}: {inside}", hint=_HINT)
