"""What requests cost: counted as the server tells it, held below a limit before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat_cli.core.errors import ConfigError

_MILLION = 1_000_000


@dataclass(frozen=True)
class Usage:
    """Tokens read and written; `estimated` where the server did not tell."""

    tokens_in: int
    tokens_out: int
    estimated: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Prices in dollars per million tokens, and what may be spent in all; None: no limit."""

    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise ConfigError(
                f"a limit in dollars needs prices: --max-cost {self.max_cost:g}",
                hint="give --price-in and --price-out (dollars per million tokens), or use --max-tokens-total",
            )

    def cost(self, tokens_in: float, tokens_out: float) -> float | None:
        """Return dollars; None where no price is known."""
        if self.price_in is None and self.price_out is None:
            return None
        return (tokens_in * (self.price_in or 0) + tokens_out * (self.price_out or 0)) / _MILLION


class Meter:
    """Tokens spent, and held back for requests on their way: with both together the limits are never exceeded.

    (Save for prompts that have more tokens than was estimated, which is rather too many.)
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.tokens_in = self.tokens_out = 0
        self.estimated = False
        self._held_in = self._held_out = 0

    @property
    def cost(self) -> float | None:
        """Dollars spent so far; None where no price is known."""
        return self.limits.cost(self.tokens_in, self.tokens_out)

    def hold(self, tokens_in: int, tokens_out: int) -> bool:
        """Hold back the most that a request can cost; False if the limits leave no room for it."""
        all_in = self.tokens_in + self._held_in + tokens_in
        all_out = self.tokens_out + self._held_out + tokens_out
        cost, most = self.limits.cost(all_in, all_out), self.limits.max_tokens
        if most is not None and all_in + all_out > most:
            return False
        if self.limits.max_cost is not None and cost is not None and cost > self.limits.max_cost:
            return False
        self._held_in += tokens_in
        self._held_out += tokens_out
        return True

    def release(self, tokens_in: int, tokens_out: int) -> None:
        """Give back what was held for a request that has come to its end."""
        self._held_in -= tokens_in
        self._held_out -= tokens_out

    def spend(self, usage: Usage) -> None:
        """Count what an answer cost."""
        self.tokens_in += usage.tokens_in
        self.tokens_out += usage.tokens_out
        self.estimated |= usage.estimated
