"""Reading wingspan.toml: a project, or what is wrong, in which line, and the nearest thing that is right."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from wingspan.errors import InputError
from wingspan.project import Project

PROJECT_FILE = "wingspan.toml"


def load_project(folder_or_file: Path, overrides: Sequence[str] = ()) -> Project:
    """Read and check a project file; `overrides` are `section.key=value` with TOML values.

    Raises InputError naming the file, the line and the nearest known key.
    """
    path = project_file(folder_or_file)
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError("the file is not UTF-8 text", where=path, remedy="Save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", where=path, remedy="Mend that line") from error
    for override in overrides:
        _apply_override(data, override)
    try:
        return Project.model_validate(data)
    except ValidationError as error:
        raise _explain(error, path, text, overrides) from error


def project_file(folder_or_file: Path) -> Path:
    """The wingspan.toml that a user means by a folder or a file."""
    path = folder_or_file / PROJECT_FILE if folder_or_file.is_dir() else folder_or_file
    if not path.is_file():
        raise InputError(
            "there is no project file here",
            where=path,
            remedy=f"Give a folder with a {PROJECT_FILE}, or make one with: wingspan init {folder_or_file}",
        )
    return path


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, raw = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2:
        raise InputError(
            "not of the form section.key=value", where=f"--set {override}", remedy="e.g. train.tokens=65536"
        )
    table = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"'{part}' is not a table", where=f"--set {override}", remedy="Set a key inside a table")
    table[parts[-1]] = _toml_value(raw.strip())


def _toml_value(raw: str) -> Any:
    """`3`, `1e-4`, `true`, `[1, 2]` as TOML reads them; anything else is a string."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _explain(error: ValidationError, path: Path, text: str, overrides: Sequence[str]) -> InputError:
    """The first problem of a ValidationError, in the user's terms."""
    problem = error.errors()[0]
    location = list(problem["loc"])
    names = [str(part) for part in location]
    where = _where(path, text, location, overrides)
    if problem["type"] == "extra_forbidden":
        near = _nearest(str(location[-1]), _known_keys(location[:-1]))
        remedy = f"Did you mean '{near}'?" if near else f"Known keys: {', '.join(sorted(_known_keys(location[:-1])))}"
        return InputError(f"unknown key '{'.'.join(names)}'", where=where, remedy=remedy)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return InputError(
            f"'{'.'.join(names)}' is missing", where=path, remedy="Add it; wingspan init shows a whole file"
        )
    given = "" if problem["type"] == "value_error" else f" (given: {problem['input']!r})"
    problem_said = f"'{'.'.join(names)}': {message[0].lower()}{message[1:]}{given}"
    return InputError(problem_said, where=where, remedy=_nearest_valid(problem, ".".join(names)))


_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _nearest_valid(problem: Any, name: str) -> str:
    """The smallest change that makes a value valid."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _LIMITS:
        limit, words = _LIMITS[kind]
        return f"Set {name} to {words} {context[limit]:g}"
    if kind.startswith("int_"):
        near = f", such as {round(problem['input'])}" if kind == "int_from_float" else ""
        return f"Set {name} to a whole number{near}"
    if kind == "finite_number":
        return f"Set {name} to a number"
    return f"Set {name} to {context['expected']}" if "expected" in context else "Change its value"


def _nearest(word: str, known: Iterable[str]) -> str | None:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _known_keys(location: Sequence[str | int]) -> set[str]:
    """Keys of the table at `location`."""
    model: Any = Project
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(kind for kind in _leaves(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel))
    return set(model.model_fields)


def _leaves(annotation: Any) -> Iterable[Any]:
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)


def _where(path: Path, text: str, location: Sequence[str | int], overrides: Sequence[str]) -> str:
    """`file:line` of a key, or the override that set it."""
    dotted = ".".join(str(part) for part in location)
    for override in overrides:
        if f"{override.partition('=')[0].strip()}.".startswith(f"{dotted}."):
            return f"--set {override}"
    line = _line_of(text, location)
    return f"{path}:{line}" if line else str(path)


def _line_of(text: str, location: Sequence[str | int]) -> int | None:
    """The line of a key: the header of its table first, then the key below it."""
    tables = [str(part) for part in location[:-1] if isinstance(part, str)]
    index = next((part for part in location if isinstance(part, int)), 0)
    key = str(location[-1])
    header = re.compile(r"^\s*\[+\s*" + r"\s*\.\s*".join(map(re.escape, tables)) + r"\s*\]+") if tables else None
    key_line = re.compile(rf"^\s*(\[+\s*)?([\"']?){re.escape(key)}\2\s*[=\].]")
    seen, inside = -1, header is None
    for number, line in enumerate(text.splitlines(), start=1):
        if header is not None and header.match(line):
            seen += 1
            inside = seen == index
        elif line.lstrip().startswith("[") and not key_line.match(line):
            inside = header is None
        elif inside and key_line.match(line):
            return number
    return None
