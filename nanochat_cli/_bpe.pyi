"""Types of the native module, built from rust/bpe. Use it through nanochat_cli.core.tokenizer."""

from collections.abc import Sequence

UNICODE_VERSION: str

class Splitter:
    """Cuts text into pieces."""

    def __init__(self, style: str, max_digits: int | None = None) -> None:
        """`gpt4` with the most digits of a piece, `gpt2`, or `whole`: every text is a piece. ValueError for another."""
    def split(self, text: str) -> list[str]:
        """Pieces of `text`. ValueError for a lone surrogate."""

class Counter:
    """Counts pieces of text; the first half of training."""

    def __init__(self, splitter: Splitter, threads: int) -> None: ...
    def feed(self, texts: list[str]) -> None:
        """Adds documents, without the interpreter lock. ValueError names a text with a lone surrogate."""
    def feed_arrow(self, array: object, doc_cap: int | None = None, max_chars: int | None = None) -> int:
        """Adds the texts of an Arrow array (utf8, large_utf8, utf8_view; nulls are left out) without a copy.

        Each text is cut to `doc_cap` characters; the one that carries their sum beyond `max_chars` is the last. Returns
        the characters added, 0 if neither limit is given. ValueError names a row that is no UTF-8; TypeError an array
        that holds no text.
        """
    def add(self, counts: Sequence[tuple[str, int]]) -> None:
        """Adds pieces that were counted elsewhere. ValueError for a count below one."""
    @property
    def documents(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def pieces(self) -> int:
        """Pieces found so far, each as often as it occurred; those of `add` left out."""
    @property
    def distinct(self) -> int:
        """Pieces in memory; one that several threads found counts once for each."""
    @property
    def memory(self) -> int:
        """Bytes of memory that the counts take."""
    def spill(self, path: str) -> None:
        """Writes all counts to a file and forgets them. OSError if the disk refuses."""
    def finish(self, min_count: int = 1) -> Pieces:
        """The pieces that occur `min_count` times or more; this counter is used up afterwards."""

class Pieces:
    """Distinct pieces and their counts."""

    def __init__(self) -> None: ...
    def gather(self, spilled: Sequence[str], partition: int, min_count: int = 1) -> None:
        """Adds one of 64 partitions from files that `Counter.spill` wrote. OSError, or ValueError if damaged."""
    def spill(self, path: str) -> None:
        """Writes all of them to a file, as `Counter.spill` does. OSError if the disk refuses."""
    def __len__(self) -> int: ...
    def merge_memory(self, num_tokens: int) -> int:
        """Bytes of memory that training to `num_tokens` tokens takes at most, about."""

class Trainer:
    """Merges pairs, the most frequent first."""

    def __init__(self, pieces: Pieces, num_tokens: int) -> None:
        """Prepares training to `num_tokens` tokens with the 256 bytes; copies what it needs of the pieces."""
    def follow(self, merges: Sequence[tuple[int, int]]) -> None:
        """Lets the next merges be these, which the same pieces led to before."""
    def step(self, max_ms: int) -> bool:
        """Merges for about `max_ms` milliseconds, without the interpreter lock; True when there is no more to do.

        ValueError if a merge that is to be followed is not the one that these pieces lead to.
        """
    def merges(self) -> list[tuple[int, int]]:
        """The two tokens that each new token joins, in the order of ids."""
    @property
    def num_tokens(self) -> int: ...
    def encoded_length(self) -> int:
        """Number of tokens that the whole training text has now."""
    def tokens(self) -> list[bytes]:
        """Bytes of each token, in the order of the ids."""

class Encoder:
    """Encodes text; may be shared between threads."""

    def __init__(self, tokens: list[bytes], splitter: Splitter) -> None:
        """ValueError unless every token is a single byte or joins two earlier tokens."""
    def merges(self) -> list[tuple[int, int]]:
        """The two tokens that each token of more than one byte joins, in the order of ids."""
    def encode(self, text: str) -> list[int]:
        """Ids of one text. ValueError for a lone surrogate."""
    def encode_batch(
        self, texts: list[str], threads: int, first: int | None = None, narrow: bool = False
    ) -> tuple[bytearray, bytearray]:
        """Ids of all texts end to end (uint32; `narrow`: uint16) and their number per text (uint64).

        The id `first` goes before each text.
        """
    def encode_arrow(
        self, array: object, threads: int, first: int | None = None, narrow: bool = False
    ) -> tuple[bytearray, bytearray]:
        """The same for the texts of an Arrow array, read without a copy; errors as those of `Counter.feed_arrow`."""
