"""The generator's random numbers: published values, ranges and independence of streams."""

from nanochat_cli.core.data.tinyworld.rng import Rng, hash64, stream


def test_draws_are_those_published_for_splitmix64() -> None:
    rng = Rng(1234567)
    assert [rng.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_hash_is_fixed() -> None:
    assert [hash64(""), hash64("held/add/37+48")] == [13020603013274838756, 13412742966267425391]


def test_draws_stay_in_range_and_reach_both_ends() -> None:
    rng = Rng(1)
    assert {rng.between(3, 6) for _ in range(200)} == {3, 4, 5, 6}
    assert sorted(rng.sample(range(10), 10)) == list(range(10))
    assert len(set(rng.sample("abcdef", 3))) == 3


def test_streams_differ_in_every_part() -> None:
    keys = [("v", 0, "text", 1), ("v", 1, "text", 0), ("v", 0, "sft", 1), ("w", 0, "text", 1), ("v", 0, "text", 11)]
    assert len({stream(*key).bits() for key in keys}) == len(keys)
