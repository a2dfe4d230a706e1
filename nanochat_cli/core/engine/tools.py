"""The calculator inside a reply: what the model asks for is worked out, and the result is put in its mouth.

A reply may hold `<|python_start|>48/2<|python_end|>`; what follows is then not sampled but forced:
`<|output_start|>24<|output_end|>`, as in training data (`conversation.render`). Nothing is forced after what the
calculator refuses. Whether a token was forced is a function of the reply alone, so that training can leave it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nanochat_cli.core.tokenizer.tokenizer import Tokenizer
from nanochat_cli.core.tools import calculator

_MAX_TOKENS = 256
"""A longer expression is none that the calculator takes."""


class Calls:
    """Follows one reply token by token; after each, `took` returns the tokens that have to come next."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start, self._end = tokenizer.special("python_start"), tokenizer.special("python_end")
        self._out, self._back = tokenizer.special("output_start"), tokenizer.special("output_end")
        self._asked: list[int] | None = None

    def took(self, token: int) -> list[int]:
        """Take note of a token that the model wrote; return what is forced after it, mostly nothing."""
        if token == self._start:
            self._asked = []
            return []
        if self._asked is None:
            return []
        if token == self._end:
            asked, self._asked = self._asked, None
            result = calculator.calculate(self._tokenizer.decode(asked))
            return [] if result is None else [self._out, *self._tokenizer.encode(result), self._back]
        if self._tokenizer.is_special(token) or len(self._asked) == _MAX_TOKENS:
            self._asked = None
        else:
            self._asked.append(token)
        return []


class Spoken:
    """Follows one reply token by token: calls of the calculator and what it answers are not said aloud.

    A good reply says the result itself, as training data does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._opens = {tokenizer.special("python_start"), tokenizer.special("output_start")}
        self._closes = {tokenizer.special("python_end"), tokenizer.special("output_end")}
        self._aside = False

    def is_text(self, token: int) -> bool:
        """Whether this token, the next of the reply, is said."""
        if token in self._opens:
            self._aside = True
        elif token in self._closes:
            self._aside = False
            return False
        return not self._aside


def forced(tokenizer: Tokenizer, reply: Sequence[int]) -> list[bool]:
    """Return which tokens of a reply that was written with tools were forced."""
    calls, coming, found = Calls(tokenizer), 0, []
    for token in reply:
        found.append(coming > 0)
        if coming:
            coming -= 1
        else:
            coming = len(calls.took(token))
    return found


def without_calls(tokenizer: Tokenizer, body: Iterable[int]) -> list[int]:
    """Return a reply without the tokens that mark calls and results; what is left of a good one is no special token."""
    marks = {tokenizer.special(name) for name in ("python_start", "python_end", "output_start", "output_end")}
    return [token for token in body if token not in marks]
