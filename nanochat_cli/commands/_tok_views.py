"""What `nanochat tok inspect` and `tok eval` show of a tokenizer, a text, a conversation."""

from pathlib import Path
from typing import TYPE_CHECKING

from nanochat_cli.commands import _mask_view
from nanochat_cli.core.errors import DataError
from nanochat_cli.output import Output

if TYPE_CHECKING:
    from nanochat_cli.core.tokenizer.tokenizer import Tokenizer


def facts(tok: "Tokenizer") -> dict[str, object]:
    """What is known of a tokenizer."""
    lengths = tok.token_bytes()
    longest = [_visible(tok, int(id)) for id in lengths.argsort(kind="stable")[::-1][:8]]
    return {
        "vocab_size": tok.vocab_size,
        "pattern": tok.pattern.name,
        "regex": tok.pattern.regex,
        "special_tokens": tok.vocab_size - int((lengths > 0).sum()),
        "mean_bytes_of_a_token": float(lengths[lengths > 0].mean()),
        "longest_tokens": longest,
        "longest": " ".join(longest),
        **{f"training_{key}": value for key, value in tok.training.items()},
        "hash": tok.hash,
    }


def show_tokens(tok: "Tokenizer", text: str, out: Output) -> None:
    """Every token with the piece it lies in: pieces are what no token reaches across."""
    rows: list[tuple[object, ...]] = []
    pieces = tok.pieces(text)
    for number, piece in enumerate(pieces):
        for id in tok.encode(piece):
            rows.append((len(rows), number, str(id), len(tok.id_to_bytes(id)), _visible(tok, id)))
    out.table(("position", "piece", "id", "bytes", "token"), rows)
    out.note(f"{len(text.encode()):,} bytes, {len(pieces):,} pieces, {len(rows):,} tokens")


def show_chat(tok: "Tokenizer", path: Path, number: int, out: Output) -> None:
    """A conversation, with what the model is trained to write in colour; in JSON every token."""
    from nanochat_cli.core.data import preview

    found = preview.chats(path, number, tok)
    if len(found) < number:
        raise DataError(f"only {len(found)} conversations in {path}: {number}")
    item = found[number - 1]
    ids, mask = item.ids or [], item.mask or []
    if out.json_mode:
        rows = [(i, str(id), _visible(tok, id), bool(on)) for i, (id, on) in enumerate(zip(ids, mask, strict=True))]
        out.table(("position", "id", "token", "trained"), rows)
        return
    _mask_view.show_text(tok, ids, mask, out)
    out.note(f"{_mask_view.told(ids, mask)} ({'in colour' if _mask_view.in_colour(out) else 'in brackets'})")


def own_texts(corpora: list[str], files: list[Path], text_field: str) -> dict[str, list[str]]:
    """Validation text of corpora and the documents of files, by name."""
    from nanochat_cli.core.data import vocabulary
    from nanochat_cli.core.data.corpus import Corpus
    from nanochat_cli.core.data.textfile import check_given

    texts = {f"{name} (validation)": vocabulary.held_out(Corpus.open(name)) for name in corpora}
    for path in files:
        check_given(path)
        texts[str(path)] = vocabulary.sample_of_file(path, text_field)
    return texts


def _visible(tok: "Tokenizer", id: int) -> str:
    """A token as one printable word: blanks and control characters escaped, bytes that are no UTF-8 in hex."""
    raw = tok.id_to_bytes(id)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in raw)
    return "".join(c if c.isprintable() and c != " " else "␣" if c == " " else ascii(c)[1:-1] for c in text)
