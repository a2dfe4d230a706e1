"""The calculator against Python's own fractions, the training data's answers, and hostile text."""

import operator as op
import random
import re
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from nanochat_cli.core.data import jsonfile
from nanochat_cli.core.tools.calculator import MAX_CHARS, MAX_DEPTH, calculate, written

CASES = {
    "1+2": "3",
    "21.0": "21",
    "0.2*50": "10",
    "0.1+0.2": "0.3",
    "7/2": "3.5",
    "10/3": "3.3333333333",
    "-10/3": "-3.3333333333",
    "2/3": "0.6666666667",
    "1/8": "0.125",
    "1/1024/1024": "0.00000095367431640625",
    ".5*4": "2",
    "5.": "5",
    "1,000,000*2": "2000000",
    "1,234.5+1": "1235.5",
    "-7//2": "-4",
    "-7%3": "2",
    "7.5%2": "1.5",
    "2-3-4": "-5",
    "100/10/5": "2",
    "2*(3+4)*-1": "-14",
    "--3": "3",
    "+-+3": "-3",
    " ( 1 + 2 ) * 3 ": "9",
    "-0": "0",
    "0*-1": "0",
    "007": "7",
    "'strawberry'.count('r')": "3",
    '"strawberry".count("r")': "3",
    "'opened'.count('e') + 1": "3",
    "'important'.count ('t')": "2",
    "'a,b'.count(',')": "1",
    "'it is'.count(' ')": "1",
    "'été'.count('é')": "2",
    "'abc'.count('')": "4",
    '"it\'s".count("\'")': "1",
}
REFUSED = [
    "", " ", "()", "1+", "*1", "(1", "1)", "1 2", "2**3", "1/0", "1//0", "1%0", "1,00", "1,0000", "1,2,3", "1e5",
    "0x10", "1_000", "1.2.3", "abc", "'abc'", "'abc'+'d'", "'a'*9", "'abc'.count", "'abc'.count()", "'abc'.count(1)",
    "'abc'.upper()", "'a'.ljust(99).count('a')", "'a'.count('a').real", "'a\\'.count('a')", "'a'.count('\\x61')",
    "'a\nb'.count('a')", "f'a'.count('a')", "__import__('os')", "().__class__", "open('x')", "1;2", "1\n2x", "'1+2",
    "len('a')", "1<2", "1 if 1 else 2", "[1]", "١+١", "9" * 101, "9" * 90 + "*" + "9" * 90,
    "1/" + "9" * 90 + "/" + "9" * 90, "*".join(["9" * 30] * 8), "(" * 60 + "1" + ")" * 60, "1" + "+1" * 200,
    "\x00", "=", "+", "'%s'.count('x')" % ("x" * MAX_CHARS),
]  # fmt: skip


@pytest.mark.parametrize("expression", CASES)
def test_known_results(expression: str) -> None:
    assert calculate(expression) == CASES[expression]


@pytest.mark.parametrize("expression", REFUSED, ids=lambda text: repr(text[:30]))
def test_everything_else_has_no_result(expression: str) -> None:
    assert calculate(expression) is None


def grown(rng: random.Random, depth: int) -> tuple[str, Fraction | None]:
    """A random expression and its value, computed while it is written; None after a division by zero."""
    kind = rng.random()
    if depth == 0 or kind < 0.25:
        text = rng.choice(
            [
                str(rng.randrange(1000)),
                f"{rng.randrange(100)}.{rng.randrange(100):02}",
                f"{rng.randrange(1, 99)},{rng.randrange(1000):03}",
            ]
        )
        return text, Fraction(text.replace(",", ""))
    if kind < 0.35:
        word, part = "".join(rng.choices("ab", k=8)), rng.choice("ab")
        return f"'{word}'.count(\"{part}\")", Fraction(word.count(part))
    if kind < 0.5:
        text, value = grown(rng, depth - 1)
        sign = rng.choice("+-")
        return f"{sign}({text})", value if value is None or sign == "+" else -value
    (left, a), (right, b) = grown(rng, depth - 1), grown(rng, depth - 1)
    sign, space = rng.choice(["+", "-", "*", "/", "//", "%"]), rng.choice(["", " "])
    text = f"({left}){space}{sign}{space}({right})"
    if a is None or b is None or (b == 0 and sign in ("/", "//", "%")):
        return text, None
    compute = {"+": op.add, "-": op.sub, "*": op.mul, "/": op.truediv, "//": op.floordiv, "%": op.mod}[sign]
    return text, Fraction(compute(a, b))


def test_random_expressions_against_fractions() -> None:
    rng, compared = random.Random(5), 0
    for _ in range(3000):
        text, value = grown(rng, 3)
        if len(text) <= MAX_CHARS:
            assert calculate(text) == (None if value is None else written(value)), text
            compared += value is not None
    assert compared > 1500


def test_precedence_without_brackets() -> None:
    rng = random.Random(6)
    for _ in range(2000):
        numbers = [str(rng.randrange(1, 50)) for _ in range(rng.randrange(2, 7))]
        text = numbers[0] + "".join(rng.choice(["+", "-", "*", "/", "//", "%", "*-", "--"]) + n for n in numbers[1:])
        # Python on exact numbers: each literal becomes a fraction, and its own parser decides the order.
        exact = re.sub(r"(\d+)", r"Fraction(\1)", text)
        try:
            value = eval(exact)  # noqa: S307 - our own digits and signs
        except ZeroDivisionError:
            assert calculate(text) is None
        else:
            assert calculate(text) == written(Fraction(value)), text


@pytest.mark.parametrize(
    "value", [Fraction(1, 3), Fraction(-7, 4), Fraction(1, 10**6), Fraction(12345, 7), Fraction(0)]
)
def test_written_numbers_are_near_and_plain(value: Fraction) -> None:
    assert abs(Fraction(written(value)) - value) < Fraction(1, 10**10)
    assert re.fullmatch(r"-?\d+(\.\d*[1-9])?", written(value))


def test_works_in_any_thread() -> None:
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(calculate("6*7"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["42"] * 8


def test_hostile_text_is_refused_or_done_at_once() -> None:
    texts = ["(" * MAX_CHARS, "-" * 255 + "1", "9*" * 127 + "9", "'" * 256, "1," * 128, "9999999999*" * 20 + "1"]
    texts += ["(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH, "9" * 10**7, "'" + "a" * 10**7]
    began = time.process_time()
    for text in texts * 20:
        calculate(text)
    assert time.process_time() - began < 20  # a guard against blow-up, four orders of magnitude wide


def test_agrees_with_gsm8k(real_data: Path) -> None:
    """Every calculation of GSM8K has the value that the data gives; nearly all, the very same text."""
    total = same = equal = 0
    for name in ("train", "test"):
        for _, row in jsonfile.values(real_data / "gsm8k" / f"{name}.jsonl"):
            for expression, result in re.findall(r"<<([^<>]*)=([^<>=]*)>>", row["answer"]):
                found = calculate(expression)
                total, same = total + 1, same + (found == result)
                equal += found is not None and Fraction(found) == Fraction(result)
    assert total > 27_000 and total - equal <= 5 and same / total > 0.96
