"""Why a number of the plan is what it is: the line of the planner that made it, with the values that it had.

The planner's functions are watched while they make the plan. A formula shown is the source of the expression
that ran, its values are those that were there, and a line counts as a number's own only when it gives that number:
an explanation cannot drift from the computation. Sources are the planner's own docstrings and comments.
"""

from __future__ import annotations

import ast
import copy
import difflib
import inspect
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, ValuesView
from dataclasses import asdict, dataclass, replace
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from types import CodeType, GeneratorType
from typing import Any

import numpy as np
from pydantic import BaseModel

from wingspan.errors import InputError
from wingspan.model.shape import ModelShape
from wingspan.plan.devices.chips import Chip
from wingspan.plan.devices.machine import Measurement

_WATCHED = ("wingspan.plan.", "wingspan.model.")
_CALLS_KEPT = 6  # of one function: the first are about the project's own fleet
# What a plan passes on as it was given, and fleets other than its own.
_READ = re.compile(r"^(machine|choice|failure_rates|serving\.traffic|model\.(layers|hidden|vocab))\b|\.layout\.")
_INPUTS = (BaseModel, ModelShape, Chip, Measurement)
_ARITHMETIC = re.compile(r"(max|min)(imum)?|sum|sqrt|log|exp(m1)?|ceil|floor|round|float|int")
_NOISE = re.compile(r"\b(?:np|math|self)\.|\b_(?=\w)|\[0\]|\.values\(\)|(?<=max|min)imum")
_RETURNED = ""  # the name of what a function returns without naming it
_LONG = 40  # characters from which the arguments of a call are left out
_UNREADY = (NameError, TypeError, AttributeError, ValueError, LookupError, ArithmeticError)


@dataclass(frozen=True)
class Derivation:
    """A number, the formula that made it, the same with its values, what it rests on, and one level down."""

    name: str
    value: float | str | None
    formula: str = ""
    filled: str = ""
    source: str = ""
    where: str = ""
    figure: dict[str, Any] | None = None  # unit, basis and band, as plan.json has them
    terms: tuple[Derivation, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Every field under its name."""
        return asdict(self)


@dataclass(frozen=True)
class _Call:
    """One call of a function of the planner, as it was when it returned."""

    code: CodeType
    names: dict[str, Any]  # what its expressions can refer to
    result: Any

    def value(self, node: ast.expr) -> Any:
        """What an expression of the function is worth; None where that can no longer be said."""
        expression = compile(ast.fix_missing_locations(ast.Expression(node)), "<formula>", "eval")
        try:
            found = eval(expression, self.names)  # noqa: S307 - the planner's own source
        except _UNREADY:
            return None
        return found.item() if isinstance(found, np.ndarray | np.generic) and np.size(found) == 1 else found

    def returned(self, value: float) -> bool:
        """Whether the function returned that number, alone or among others."""
        whole = self.result.values() if isinstance(self.result, dict) else self.result
        return any(_same(part, value) for part in (whole if isinstance(whole, tuple | ValuesView) else (whole,)))

    def reads(self, node: ast.expr) -> bool:
        """Whether the expression is an input: a field of the project, the model, the chip or the machine."""
        if not isinstance(node, ast.Attribute):
            return False
        owner = self.value(node.value)
        return isinstance(owner, _INPUTS) and not isinstance(getattr(type(owner), node.attr, None), property)


def _same(found: Any, value: float) -> bool:
    number = found.item() if isinstance(found, np.ndarray | np.generic) and np.size(found) == 1 else found
    return isinstance(number, int | float) and math.isclose(number, value, rel_tol=1e-9)


_Made = tuple[_Call, ast.expr]  # an expression in the call that it belongs to


class Explainer:
    """Explains the numbers of the plan that `make` makes."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self.plan, self._calls = _watched(make)
        self.figures = {path: value for path, value in _figures(self.plan) if not _READ.search(path)}

    def explain(self, name: str) -> Derivation:
        """The derivation of a number of the plan, or of a term of one: `cost` or `cost.device_hours`.

        Raises InputError with the nearest names for a name that there is not.
        """
        if (found := self._find(name)) is None:
            last = name.rpartition(".")[2]
            near = difflib.get_close_matches(last, {path.rpartition(".")[2] for path in self.figures}, n=3, cutoff=0.5)
            remedy = f"Did you mean {' or '.join(near)}?" if near else "List all names with: wingspan plan explain"
            raise InputError(f"the plan has no number '{name}'", remedy=remedy)
        call, node = found[2]
        terms: dict[str, Derivation] = {}
        for leaf in _leaves(node):
            match leaf:
                case ast.Call(func=ast.Attribute(value=whole, attr="values")):
                    terms |= {part: Derivation(part, one) for part, one in call.value(whole).items() if one}
                case _:
                    terms[_said(leaf)] = self._term(call, leaf)
        text = ast.get_docstring(_function(call.code)) or ""
        where = f"{call.code.co_name} in {Path(call.code.co_filename).name}"
        return replace(self._formula(*found), source=text, where=where, terms=tuple(terms.values()))

    def formulas(self) -> list[Derivation]:
        """Every number of the plan that is not 0 with its formula, without terms."""
        found = (self._find(path) for path, value in self.figures.items() if value)
        return [self._formula(*one) for one in found if one]

    def _formula(self, name: str, value: float, made: _Made) -> Derivation:
        figure = reduce(getitem, name.split("."), self.plan) if name in self.figures else None
        known = figure if isinstance(figure, dict) else None
        return Derivation(name, value, _said(made[1]), _filled(*made), figure=known)

    def _find(self, name: str) -> tuple[str, float, _Made] | None:
        """A number by its path or the end of it, a term by its number and name, any other value by its name alone."""
        parent, _, last = name.rpartition(".")
        for path in (path for path in self.figures if f".{path}".endswith(f".{name}")):
            value = self.figures[path]
            if made := self._made(last, value) or self._made(_RETURNED, value) or self._entry(last, value):
                return path, value, made
        if parent and (whole := self._find(parent)):
            call, node = whole[2]
            for leaf in _leaves(node):
                value = call.value(leaf)
                if _last(leaf) == last and isinstance(value, int | float) and (made := self._made(last, value, call)):
                    return name, value, made
        elif not parent and (made := self._made(last)):
            return name, made[0].value(made[1]), made
        return None

    def _made(
        self, name: str, value: float | None = None, first: _Call | None = None, seen: frozenset[str] = frozenset()
    ) -> _Made | None:
        """The first line that made a value of that name; where a value is given, exactly that one.

        A line that only passes a value on leads to what made it under the name that the line knows it by.
        """
        passed: list[_Made] = []
        for call in [first, *self._calls] if first else self._calls:
            if name in (_RETURNED, call.code.co_name) and value is not None and not call.returned(value):
                continue
            for node in _expressions(call.code).get(name, ()):
                if _same(call.value(node), value) if value is not None else isinstance(call.value(node), int | float):
                    chosen = _Chosen(call).visit(copy.deepcopy(node))
                    if not _last(chosen) or call.reads(chosen):
                        return call, chosen
                    passed.append((call, chosen))
        for call, chosen in passed:
            known_as = _last(chosen)
            if known_as not in seen:
                made = self._made(known_as, call.value(chosen), call, seen | {name, known_as})
                if made:
                    return made
        return passed[0] if passed else None

    def _entry(self, name: str, value: float) -> _Made | None:
        """The line of {name: f(each) for name, each in whole.items()} that made this entry."""
        for call in filter(lambda call: call.returned(value), self._calls):
            for node in _expressions(call.code).get(_RETURNED, ()):
                match node:
                    case ast.DictComp(
                        value=made,
                        generators=[
                            ast.comprehension(
                                target=ast.Tuple(elts=[_, ast.Name(id=each)]),
                                iter=ast.Call(func=ast.Attribute(value=whole, attr="items")),
                            )
                        ],
                    ):
                        one = _replaced(made, ast.dump(ast.Name(each, ast.Load())), _part(whole, name))
                        if _same(call.value(one), value):
                            return call, one
        return None

    def _term(self, call: _Call, leaf: ast.expr) -> Derivation:
        """A value that a formula uses: what made it, or what it rests on."""
        value, name, source = call.value(leaf), _said(leaf), _source(call, leaf)
        number = value if isinstance(value, int | float | str) else None
        made = None
        if not source and isinstance(number, int | float):
            made = self._made(_last(leaf), number, call if isinstance(leaf, ast.Name) else None)
        if made is None or _said(made[1]) == name:
            return Derivation(name, number, source=source or _field(call, leaf))
        return Derivation(name, number, _said(made[1]), _filled(*made), _source(*made))


def _figures(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a plan under its path; rows of tables are left out."""
    if isinstance(value, dict) and "value" not in value:
        for key, one in value.items():
            yield from _figures(one, f"{path}.{key}".lstrip("."))
    number = value["value"] if isinstance(value, dict) and "value" in value else value
    if isinstance(number, int | float) and not isinstance(number, bool):
        yield path, number


def _watched(make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], list[_Call]]:
    """A plan, and the calls of the planner's functions that made it: of each the first few that handled one layout."""
    calls: list[_Call] = []
    kept: dict[CodeType, int] = {}

    def note(frame: Any, event: str, result: Any) -> None:
        code = frame.f_code
        generated = code.co_name.startswith("<") or code.co_filename.startswith("<")
        if event != "return" or generated or kept.get(code, 0) >= _CALLS_KEPT:
            return
        if not frame.f_globals.get("__name__", "").startswith(_WATCHED):
            return
        if all(np.size(value) == 1 for value in frame.f_locals.values() if isinstance(value, np.ndarray)):
            kept[code] = kept.get(code, 0) + 1
            calls.append(_Call(code, frame.f_globals | frame.f_locals, result))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        return make(), calls
    finally:
        sys.setprofile(before)


@cache
def _function(code: CodeType) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(code))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tree


@cache
def _expressions(code: CodeType) -> dict[str, list[ast.expr]]:
    """The expressions of a function under the names they get: assigned, in a dictionary, passed on, returned."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(_function(code)):
        for name, value in _named(node, code.co_name):
            found.setdefault(name, []).append(value)
    return found


def _named(node: ast.AST, function: str) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=made):
            parts = made.elts if isinstance(made, ast.Tuple) else [_part(made, n) for n in range(len(names))]
            yield from ((name.id, part) for name, part in zip(names, parts, strict=True) if isinstance(name, ast.Name))
        case ast.Assign(targets=[ast.Name(id=name) | ast.Subscript(slice=ast.Constant(value=str(name)))], value=made):
            yield name, made
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as made):
            yield name, made
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            yield from ((str(key.value), _figure_of(made)) for key, made in pairs if isinstance(key, ast.Constant))
        case ast.keyword(arg=str(name), value=made):
            yield name, _figure_of(made)
        case ast.Return(value=ast.expr() as made):
            yield function, made
            yield from ((_RETURNED, part) for part in (made.elts if isinstance(made, ast.Tuple) else [made]))


def _part(whole: ast.expr, index: int | str) -> ast.expr:
    """One of the values that a call returns or a dictionary has."""
    return ast.Subscript(value=whole, slice=ast.Constant(value=index), ctx=ast.Load())


def _figure_of(node: ast.expr) -> ast.expr:
    """The value in what makes a figure of it: predicted(value, ...) or (value, unit, source)."""
    match node:
        case ast.Call(args=[value, *_]) if _called(node) in ("predicted", "measured", "published"):
            return value
        case ast.Tuple(elts=[value, *_]):
            return value
    return node


class _Chosen(ast.NodeTransformer):
    """Keeps of a choice what was chosen."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return self.visit(node.body if self._call.value(node.test) else node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        if isinstance(node.op, ast.And):
            return node
        return self.visit(next((one for one in node.values if self._call.value(one)), node.values[-1]))

    def visit_Call(self, node: ast.Call) -> Any:
        match _called(node), node.args:
            case "where", [test, chosen, other]:
                return self.visit(chosen if self._call.value(test) else other)
            case "full", [_, value]:
                return self.visit(value)
            case "select", [ast.List(elts=tests), ast.List(elts=values), *default]:
                pairs = zip(tests, values, strict=True)
                return self.visit(
                    next((value for test, value in pairs if self._call.value(test)), (default or values)[-1])
                )
        return self.generic_visit(node)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def _last(node: ast.expr) -> str:
    """The name of a mere name, attribute, entry or call; empty for anything computed."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if not _ARITHMETIC.fullmatch(name):
            return name
        case ast.Subscript(value=whole):
            return _last(whole)
    return ""


def _leaves(node: ast.AST) -> Iterator[ast.expr]:
    """The names and calls that an expression computes with, outermost only."""
    if isinstance(node, ast.expr) and (_last(node) or isinstance(node, ast.GeneratorExp | ast.ListComp)):
        yield node
    else:
        for child in node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node):
            yield from _leaves(child)


def _said(node: ast.expr) -> str:
    """An expression as a person reads it."""
    text = re.sub(r"\b1(0{3,})\.0\b", lambda zeros: f"1e{len(zeros[1])}", _NOISE.sub("", ast.unparse(node)))
    if _last(node) and len(text) > _LONG:
        return f"{text.partition('(')[0]}(…)"
    return re.sub(r"\((\([^()]+ for [^()]+\))\)", r"\1", text).replace(" * ", " × ")


def _filled(call: _Call, node: ast.expr) -> str:
    """The expression with its values."""
    for leaf in list(_leaves(node)):
        if text := written(call.value(leaf)):
            node = _replaced(node, ast.dump(leaf), ast.Name(id=text))
    return _said(node)


def _replaced(node: ast.expr, old: str, new: ast.expr) -> ast.expr:
    """A copy of an expression with another in place of every part that dumps as `old`."""

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return new if ast.dump(node) == old else self.generic_visit(node)

    replaced: ast.expr = Replace().visit(copy.deepcopy(node))
    return replaced


def written(value: Any) -> str:
    """A number with its thousands apart, or five digits of it; a sum of several; nothing of anything else."""
    match value:
        case bool() | str():
            return str(value)
        case int() if abs(value) < 1e15:
            return f"{value:,}"
        case int() | float():
            return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.5g}"
        case ValuesView() | GeneratorType():
            return " + ".join(written(part) for part in value if part)
    return ""


def _source(call: _Call, leaf: ast.expr) -> str:
    """What an input rests on: a constant's comment, a setting's description, a chip's source, a docstring."""
    match leaf:
        case ast.Name(id=name) if name.strip("_").isupper():
            return _comment(inspect.getsource(sys.modules[call.names["__name__"]]), name)
        case ast.Attribute(value=owner, attr=name):
            whole = call.value(owner)
            if isinstance(whole, BaseModel) and name in type(whole).model_fields:
                return f"project file: {type(whole).model_fields[name].description or name}"
            if isinstance(whole, Chip):
                return {"usd_per_hour": whole.price_source, "wall_w": whole.wall_source}.get(name, whole.source)
        case ast.Subscript(value=ast.Call(func=function)) | ast.Call(func=function):
            called = call.value(function)
            if getattr(called, "__module__", "").startswith(_WATCHED):
                return (inspect.getdoc(called) or "").partition("\n\n")[0].replace("\n", " ")
    return ""


def _field(call: _Call, leaf: ast.expr) -> str:
    """What the class of a field says of it."""
    owner = type(call.value(leaf.value)) if isinstance(leaf, ast.Attribute) else None
    if owner is None or not owner.__module__.startswith(_WATCHED):
        return ""
    comment = _comment(inspect.getsource(owner), _last(leaf))
    return f"{(inspect.getdoc(owner) or '').splitlines()[0]} {comment}".strip()


def _comment(source: str, constant: str) -> str:
    """The comment beside a constant, or right above it."""
    line = rf"^(?P<above>(?: *# .*\n)*)[\w, ]*\b{constant}\b(?:[\w, ]*=|:)[^#\n]*(?:# (?P<beside>.*))?$"
    found = re.search(line, source, re.MULTILINE)
    return found["beside"] or " ".join(re.findall("# (.*)", found["above"])) if found else ""
