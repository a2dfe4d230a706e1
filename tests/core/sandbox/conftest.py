"""One sandbox for all tests of a session; they skip where the machine cannot lock a program up."""

from collections.abc import Iterator

import pytest

from nanochat_cli.core.errors import EnvironmentLacks
from nanochat_cli.core.sandbox.limits import Limits
from nanochat_cli.core.sandbox.pool import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    try:
        opened = Sandbox("auto", workers=2, limits=Limits(wall_s=20, cpu_s=10, memory_mb=256))
    except EnvironmentLacks as problem:
        pytest.skip(str(problem))
    with opened:
        yield opened
