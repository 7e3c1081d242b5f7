"""Inner loops as machine code: numba without the interpreter lock, its types kept for the type checker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """`function` compiled at its first call and kept on disk for the next process, where there is a place for it."""
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # neither beside the code nor in the user's home may anything be written
        return cast(Function, numba.njit(nogil=True)(function))
