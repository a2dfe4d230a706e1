from __future__ import annotations

import pytest

from nanochat_cli.core.errors import ConfigError
from nanochat_cli.core.units import many, parse_size, write_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512_000_000),
        ("2 GB", 2_000_000_000),
        ("1.5g", 1_500_000_000),
        ("300", 300),
        ("4KiB", 4096),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--size") == size


@pytest.mark.parametrize("text", ["", "much", "0", "-1MB", "2XB", "1e9", "2 G B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match=r"no size for --size: "):
        parse_size(text, "--size")


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 B"), (1000, "1 kB"), (81_234, "81.3 kB"), (1_234_567_890, "1.24 GB"), (999_999, "1000 kB")],
)
def test_written_sizes_are_read_again_and_never_smaller(size: int, text: str) -> None:
    assert write_size(size) == text
    assert parse_size(text, "--size") >= size


def test_one_of_a_thing_has_no_s() -> None:
    assert [many(n, "head") for n in (0, 1, 2, 1024)] == ["0 heads", "1 head", "2 heads", "1,024 heads"]
    assert many(1.004, "pass", "passes", ".2g") == "1 pass"
    assert many(0.5, "pass", "passes", ".2g") == "0.5 passes"
