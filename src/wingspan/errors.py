"""Errors a person reads: what is wrong, where, and what to do about it.

The command line prints them in one form and turns them into exit codes:
`InputError` -> 2 (the user's input is wrong), `WorkError` -> 1 (the work failed).
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Collection
from pathlib import Path

LOST = 75  # exit code of a rank that is well but lost another: start again (EX_TEMPFAIL)
LEFT = 76  # of a run that was asked to end, and has saved


class WingspanError(Exception):
    """An error with a remedy.

    `problem` is one sentence without a full stop; `where` names the file, line or field;
    `remedy` says what to do next.
    """

    exit_code = 1

    def __init__(self, problem: str, *, where: str | Path = "", remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = str(where)
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem}" if self.where else self.problem
        return f"{text}. {self.remedy}" if self.remedy else text


class InputError(WingspanError):
    """The user's input is wrong: the project file, a path, an option."""

    exit_code = 2


class WorkError(WingspanError):
    """The input was right but the work failed: a full disk, a lost device, a damaged file."""


class DamagedArtefact(WorkError):
    """A file on disk is not what its manifest says it is."""

    def __init__(self, path: Path, expected: str, found: str, remedy: str) -> None:
        super().__init__(
            f"the file is damaged: its manifest says sha256 {expected[:12]}, the file has {found[:12]}",
            where=path,
            remedy=remedy,
        )


def did_you_mean(word: str, known: Collection[str], otherwise: str, cutoff: float = 0.6) -> str:
    """A remedy for a name that is not `known`: the one that is most like it, or `otherwise` and all of them."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f"Did you mean '{near[0]}'?" if near else f"{otherwise}: {', '.join(known)}"


def explain(error: BaseException) -> WingspanError | None:
    """Turn an operating system error into one with a remedy; None for anything unforeseen."""
    if isinstance(error, WingspanError):
        return error
    if isinstance(error, MemoryError):
        return WorkError("out of memory", remedy="Lower train.micro_batch or the sequence length")
    if isinstance(error, OSError):
        return _explain_os_error(error)
    return None


def _explain_os_error(error: OSError) -> WingspanError | None:
    where = str(error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WorkError(
            "the disk is full",
            where=where,
            remedy="Nothing was half-written; free some space and give the same command again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError("permission denied", where=where, remedy="Check who owns the file, or choose another folder")
    if error.errno == errno.ENOENT:
        return InputError("there is no such file", where=where, remedy="Check the path")
    if error.errno in (errno.EISDIR, errno.ENOTDIR):
        return InputError("a file was expected here, or a folder", where=where, remedy="Check the path")
    return None
