"""A start that failed leaves nothing behind that it made, and takes nothing away that it did not make."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat_cli.core import errors, launch, paths, runs
from nanochat_cli.core.errors import ConfigError, Diverged, MissingArtifact, NanochatError
from tests.core.test_launch import plan, worker  # noqa: F401 - a fixture

Use = Callable[[str], None]
REFUSE = """
record = {'time': 1.0, 'rank': 0, 'type': %r, 'message': 'no such data: x', 'hint': None}
(folder / 'error-rank0.json').write_text(json.dumps(record))
emit('stage', name='base', purpose='p', run='r'); emit('note', text='n')
emit('error', message='no such data: x', hint=None)
sys.exit(3)
"""


def fail(kind: type[NanochatError], **kwargs: Any) -> NanochatError:
    with pytest.raises(kind) as caught:
        launch.run(plan(**kwargs), lambda _: None)
    return caught.value


def test_a_stage_that_was_refused_leaves_no_run(worker: Use) -> None:  # noqa: F811
    worker(REFUSE % "MissingArtifact")
    fail(MissingArtifact)
    assert not paths.run_dir("r").exists()
    assert paths.runs_dir().is_dir() and runs.all_runs() == []


def test_what_was_there_before_stays(worker: Use) -> None:  # noqa: F811
    worker(REFUSE % "ConfigError")
    runs.create("r")
    (runs.stage_dir("r", "sft") / "step-000001").mkdir(parents=True)
    fail(ConfigError)
    assert not runs.stage_dir("r", "base").exists()
    assert (runs.stage_dir("r", "sft") / "step-000001").is_dir() and (paths.run_dir("r") / "run.json").is_file()
    runs.stage_dir("r", "base").mkdir()
    (runs.stage_dir("r", "base") / "mine.txt").write_text("x")
    fail(ConfigError)
    assert (runs.stage_dir("r", "base") / "mine.txt").is_file()


def test_what_somebody_else_put_into_the_run_stays(worker: Use) -> None:  # noqa: F811
    worker("(folder.parent / 'notes.txt').write_text('mine')\n" + REFUSE % "ConfigError")
    fail(ConfigError)
    assert {path.name for path in paths.run_dir("r").iterdir()} == {"run.json", "notes.txt"}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("print('Traceback of ours'); sys.exit(3)", NanochatError),
        ("os.kill(os.getpid(), 9)", NanochatError),
        ("emit('step', step=1, num_steps=9)\n" + REFUSE % "NanochatError", NanochatError),
        ("(folder / 'step-000001').mkdir(); (folder / 'step-000001/MANIFEST.json').touch()\n" + REFUSE % "DataError",
         NanochatError),
        (REFUSE % "Diverged", Diverged),
    ],
    ids=["its log says more", "killed", "it had done a step", "it had saved", "it had diverged"],
)  # fmt: skip
def test_what_may_still_be_of_use_stays(worker: Use, code: str, kind: type[NanochatError]) -> None:  # noqa: F811
    worker(code)
    problem = fail(kind)
    assert (runs.stage_dir("r", "base") / "worker.log").is_file()
    if problem.exit_code == errors.EXIT_BUG:
        assert "Traceback of ours" in (runs.stage_dir("r", "base") / "worker.log").read_text()


def test_a_folder_that_is_taken_away_while_a_start_waits_for_it_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, tries = tmp_path / "stage", runs.lock, list[bool]()

    def lock(where: Path, **more: object) -> contextlib.AbstractContextManager[int]:
        tries.append(where.is_dir())
        if len(tries) == 1:  # whoever had it has cleared it away
            where.rmdir()
        return real(where, wait_s=1)

    monkeypatch.setattr(runs, "lock", lock)
    with contextlib.ExitStack() as held:
        launch.hold(folder, held)
        assert tries == [True, True] and runs.is_held(folder)
