"""Errors that a person can act on: one line, a hint, and the exit code of the process."""

from __future__ import annotations

EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class NanochatError(Exception):
    """The work failed for a reason worth telling; `hint` names the next command or value to try."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(NanochatError):
    """An option, a config value or a combination of them cannot work."""

    exit_code = 2


class MissingArtifact(NanochatError):
    """Something an earlier stage produces is not there."""

    exit_code = 3


class EnvironmentLacks(NanochatError):
    """The machine lacks something: a device, a compiler, a package, a permission."""

    exit_code = 4


class NewerVersion(EnvironmentLacks):
    """A file was written by a newer version of this program than the one that reads it."""


class Diverged(NanochatError):
    """Training left the numbers: a loss or a gradient that is not finite."""

    exit_code = 5


class DataError(NanochatError):
    """Data given by the user cannot be used; the message names file and line."""


class DamagedArtifact(NanochatError):
    """A file of ours does not match its recorded hash or form."""


class InUse(NanochatError):
    """Another process is working there."""


class PeerFailed(NanochatError):
    """Another process of the same training failed, and this one can only follow; its cause is told there."""


BY_NAME: dict[str, type[NanochatError]] = {
    cls.__name__: cls
    for cls in (
        NanochatError,
        ConfigError,
        MissingArtifact,
        EnvironmentLacks,
        NewerVersion,
        Diverged,
        DataError,
        DamagedArtifact,
        InUse,
        InUse,
        PeerFailed,
    )
}


def rebuild(name: str, message: str, hint: str | None) -> NanochatError:
    """Return the error that a worker process reported, as the same class (or plain `NanochatError`)."""
    return BY_NAME.get(name, NanochatError)(message, hint=hint)
