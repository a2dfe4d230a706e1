"""A corpus as tokens: encoded once per tokenizer, kept beside the text, verified and memory-mapped from then on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from nanochat_cli.core.data import tokenfile
from nanochat_cli.core.data.ahead import read_ahead
from nanochat_cli.core.data.corpus import MANIFEST, SPLITS, TOKENS, Check, Corpus, Split
from nanochat_cli.core.data.staging import staged
from nanochat_cli.core.errors import DamagedArtifact, NanochatError
from nanochat_cli.core.events import NULL, Log
from nanochat_cli.core.files import explain_os_errors, inside, make_dir, publish_dir, read_json, write_json
from nanochat_cli.core.tokenizer.training import ArrowArray

FORMAT = 1
SHARD_TOKENS = 100_000_000


class BatchEncoder(Protocol):
    """What is needed of a tokenizer here."""

    @property
    def hash(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_id(self) -> int: ...
    def encode_batch(
        self, texts: ArrowArray, threads: int | None = None, bos: bool = False
    ) -> tuple[np.ndarray, np.ndarray]: ...


class TokenSplit:
    """The tokens of one split across its shards, without any special token; documents are given by `doc_offsets`.

    doc_offsets: int64 [num_docs + 1]; document i is tokens doc_offsets[i] .. doc_offsets[i + 1] - 1.
    """

    def __init__(self, shards: list[tuple[np.ndarray, np.ndarray]], bos_id: int) -> None:
        self._tokens = [tokens for tokens, _ in shards]
        self._starts = np.cumsum([0, *map(len, self._tokens)])
        moved = [offsets[1:] + start for (_, offsets), start in zip(shards, self._starts)]
        self.doc_offsets = np.concatenate([np.zeros(1, np.int64), *moved])
        self.bos_id = bos_id

    @property
    def num_tokens(self) -> int:
        """Tokens in the split."""
        return int(self._starts[-1])

    @property
    def num_docs(self) -> int:
        """Documents in the split."""
        return len(self.doc_offsets) - 1

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Return the tokens at these positions (int64, any shape) as int64 of the same shape."""
        if len(self._tokens) == 1:
            return self._tokens[0][positions].astype(np.int64)
        shard = np.searchsorted(self._starts, positions, side="right") - 1
        out = np.empty(positions.shape, np.int64)
        for index in np.unique(shard):
            here = shard == index
            out[here] = self._tokens[index][positions[here] - self._starts[index]]
        return out

    def document(self, index: int) -> np.ndarray:
        """Return the tokens of one document, int64."""
        return self.read(np.arange(self.doc_offsets[index], self.doc_offsets[index + 1]))


class TokenSet:
    """Both splits of a corpus in the tokens of one tokenizer."""

    def __init__(self, directory: Path, tokenizer: BatchEncoder, *, verify: bool = True) -> None:
        """Open the token shards in a folder. Raises DamagedArtifact naming the file that is not as it was written."""
        self.dir, self.tokenizer_hash, self.vocab_size = directory, tokenizer.hash, tokenizer.vocab_size
        manifest = read_json(directory / MANIFEST, "token manifest")
        self.corpus_fingerprint: str = manifest.get("corpus_fingerprint", "")
        if manifest.get("tokenizer_hash") != tokenizer.hash:
            raise DamagedArtifact(f"these tokens are of another tokenizer: {directory}", hint=_rebuild_hint(directory))
        try:
            self._splits = {
                split: TokenSplit(list(self._shards(manifest["splits"][split], verify)), tokenizer.bos_id)
                for split in SPLITS
            }
        except KeyError as problem:
            raise DamagedArtifact(f"token manifest is damaged: {directory / MANIFEST}") from problem
        except DamagedArtifact as problem:
            raise DamagedArtifact(str(problem), hint=_rebuild_hint(directory)) from problem

    def _shards(self, entries: list[dict[str, object]], verify: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for entry in entries:
            path = inside(self.dir, str(entry["name"]), "token manifest")
            header = tokenfile.verify(path) if verify else tokenfile.read_header(path)
            if header.tokenizer_hash != self.tokenizer_hash or header.sha256 != entry["sha256"]:
                raise DamagedArtifact(f"damaged token shard, not the one in the manifest: {path}")
            yield tokenfile.open_arrays(path, header)

    def split(self, name: Split) -> TokenSplit:
        """Return the tokens of one split."""
        return self._splits[name]


def _rebuild_hint(directory: Path) -> str:
    return f"tokens are made again from the text when the folder is gone: rm -r {directory}"


def folder(corpus: Corpus, tokenizer: BatchEncoder) -> Path:
    """Return where the tokens of a corpus are for a tokenizer, whether they exist or not."""
    grown = f"-{corpus.fingerprint[:8]}" if corpus.can_grow else ""  # the tokens of what it was may still be read
    return corpus.dir / TOKENS / f"{tokenizer.hash[:12]}{grown}"


def ensure(
    corpus: Corpus, tokenizer: BatchEncoder, log: Log = NULL, *, threads: int | None = None, verify: bool = True
) -> TokenSet:
    """Return the corpus as tokens, encoding it first if that was not done yet.

    Raises DamagedArtifact if what is there, text or tokens, does not match its hashes. `verify` False trusts tokens
    and checks headers and sizes only, for a process whose neighbour has verified.
    """
    directory = folder(corpus, tokenizer)
    if not (directory / MANIFEST).is_file():
        _build(corpus, tokenizer, directory, threads, log)
    tokens = TokenSet(directory, tokenizer, verify=verify)
    if tokens.corpus_fingerprint != corpus.fingerprint:
        raise DamagedArtifact(f"these tokens are of another text: {directory}", hint=_rebuild_hint(directory))
    return tokens


def _build(corpus: Corpus, tokenizer: BatchEncoder, directory: Path, threads: int | None, log: Log) -> None:
    corpus.verify(log)  # once per tokenizer: a flipped bit in text may decode and would be trained on
    make_dir(directory.parent, "the token folder")
    with explain_os_errors(f"tokens of corpus {corpus.name}"), staged(directory) as folder:
        splits = {split: _encode_split(corpus, split, tokenizer, folder, threads, log) for split in SPLITS}
        manifest = {
            "format": FORMAT,
            "tokenizer_hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab_size,
            "corpus_fingerprint": corpus.fingerprint,
            "splits": splits,
        }
        write_json(folder / MANIFEST, manifest)
        try:
            publish_dir(folder, directory)
        except (NanochatError, OSError):
            if not (directory / MANIFEST).is_file():  # else another process was faster with the same tokens
                raise


def _encode_split(
    corpus: Corpus, split: Split, tokenizer: BatchEncoder, into: Path, threads: int | None, log: Log
) -> list[dict[str, object]]:
    """Encode one split into shards that end at document boundaries; return their manifest entries."""
    itemsize = 2 if tokenizer.vocab_size <= 1 << 16 else 4
    entries: list[dict[str, object]] = []
    writer: tokenfile.TokenFileWriter | None = None
    done, total = 0, corpus.num_documents(split)
    path = into / f"{split}-{0:05d}.bin"
    try:
        for texts in read_ahead(corpus.arrays(split)):
            if writer is None:
                path = into / f"{split}-{len(entries):05d}.bin"
                writer = tokenfile.TokenFileWriter(path, itemsize, tokenizer.hash)
            tokens, offsets = tokenizer.encode_batch(texts, threads=threads)
            writer.add(np.asarray(tokens), np.diff(offsets))
            done += len(texts)
            log.progress(f"encoding {split}", done, total, "documents")
            if writer.num_tokens >= SHARD_TOKENS:
                entries.append({"name": path.name, **asdict(writer.close())})
                writer = None
        if writer is not None:
            entries.append({"name": path.name, **asdict(writer.close())})
            writer = None
    finally:
        if writer is not None:
            writer.abandon()
    return entries


def check(corpus: Corpus, log: Log = NULL) -> list[Check]:
    """Return one finding per token shard of a corpus, whatever the tokenizer, after rehashing it."""
    found = []
    for manifest_path in sorted((corpus.dir / TOKENS).glob(f"*/{MANIFEST}")):
        manifest = read_json(manifest_path, "token manifest")
        entries = [entry for split in SPLITS for entry in manifest.get("splits", {}).get(split, [])]
        for done, entry in enumerate(entries, start=1):
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "sha256")):
                raise DamagedArtifact(f"token manifest is damaged: {manifest_path}")
            path = inside(manifest_path.parent, entry["name"], "token manifest")
            found.append(Check(str(path.relative_to(corpus.dir)), _problem(path, entry["sha256"])))
            log.progress("verifying tokens", done, len(entries), "files")
    return found


def _problem(path: Path, sha256: str) -> str | None:
    if not path.is_file():
        return "missing"
    try:
        return None if tokenfile.verify(path).sha256 == sha256 else "not the file in the manifest"
    except DamagedArtifact as problem:
        return str(problem).removesuffix(f": {path}")
