from __future__ import annotations

from itertools import combinations

import pytest

from nanochat_cli.core.eval.passk import pass_at_k, told


def test_it_is_the_share_of_all_choices_of_k_that_hold_a_right_one() -> None:
    for n in range(1, 8):
        for correct in range(n + 1):
            answers = [True] * correct + [False] * (n - correct)
            for k in range(1, n + 1):
                choices = [any(answers[i] for i in chosen) for chosen in combinations(range(n), k)]
                assert pass_at_k(n, correct, k) == pytest.approx(sum(choices) / len(choices))


def test_what_is_told_and_what_cannot_be() -> None:
    assert told(8) == [1, 2, 4, 8] and told(6) == [1, 2, 4, 6] and told(1) == [1]
    for n, correct, k in ((4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(n, correct, k)
