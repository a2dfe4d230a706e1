"""Types of the native module, built from rust/bpe. Use it through nanochat_cli.core.tokenizer."""

UNICODE_VERSION: str

class Counter:
    """Counts pieces of text; the first half of training."""

    def __init__(self, max_digits: int, threads: int) -> None: ...
    def feed(self, texts: list[str]) -> None:
        """Adds documents, without the interpreter lock. ValueError names a text with a lone surrogate."""
    def feed_arrow(self, array: object, doc_cap: int | None = None, max_chars: int | None = None) -> int:
        """Adds the texts of an Arrow array (utf8 or large_utf8; nulls are left out) without a copy.

        Each text is cut to `doc_cap` characters; the one that carries their sum beyond `max_chars` is the last. Returns
        the characters added. ValueError names a row that is no UTF-8; TypeError an array that holds no text.
        """
    @property
    def documents(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def trainer(self, num_tokens: int) -> Trainer:
        """The second half, for `num_tokens` tokens with the 256 bytes; this counter is used up afterwards."""

class Trainer:
    """Merges pairs, the most frequent first."""

    pieces: int
    def step(self, max_ms: int) -> bool:
        """Merges for about `max_ms` milliseconds, without the interpreter lock; True when there is no more to do."""
    @property
    def num_tokens(self) -> int: ...
    def encoded_length(self) -> int:
        """Number of tokens that the whole training text has now."""
    def tokens(self) -> list[bytes]:
        """Bytes of each token, in the order of the ids."""

class Encoder:
    """Encodes text; may be shared between threads."""

    def __init__(self, tokens: list[bytes], max_digits: int) -> None:
        """ValueError unless every token is a single byte or joins two earlier tokens."""
    def merges(self) -> list[tuple[int, int]]:
        """The two tokens that each token of more than one byte joins, in the order of ids."""
    def encode(self, text: str) -> list[int]:
        """Ids of one text. ValueError for a lone surrogate."""
    def encode_batch(self, texts: list[str], threads: int, first: int | None = None) -> tuple[bytearray, bytearray]:
        """Ids of all texts end to end (uint32) and their number per text (uint64); `first` goes before each text."""

    def encode_arrow(self, array: object, threads: int, first: int | None = None) -> tuple[bytearray, bytearray]:
        """The same for the texts of an Arrow array, read without a copy; errors as those of `Counter.feed_arrow`."""

def split(text: str, max_digits: int) -> list[str]:
    """Pieces of `text`, as the split pattern cuts it."""
