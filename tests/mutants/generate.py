"""Every small change of a file that could be a mistake: another comparison, operator, number, a statement left out.

What no test should have to notice is left alone: texts (docstrings, messages, names), type hints, what an error says,
assertions, and imports for type checkers.
"""

from __future__ import annotations

import ast
import copy
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
COMMUTATIVE = {
    "Add",
    "Mul",
    "Max",
    "Min",
    "And",
    "Or",
    "Equal",
    "max",
    "min",
    "maximum",
    "minimum",
    "equal",
    "allclose",
}


@dataclass(frozen=True)
class Mutant:
    """`old`, the text of an expression or statement of a function, replaced by `new`.

    `number` tells equal changes of one function apart, and the line is only for people, so that a mutant is found again
    after other lines have changed.
    """

    file: str
    function: str
    kind: str
    old: str
    new: str
    number: int = 0
    line: int = 0
    last: int = 0
    span: tuple[int, int] = (0, 0)

    @property
    def key(self) -> str:
        return "\0".join((self.file, self.function, self.kind, self.old, self.new, str(self.number)))

    def applied(self, source: bytes) -> bytes:
        """The file's content with the change."""
        start, end = self.span
        return source[:start] + self.new.encode() + source[end:]


def mutants(root: Path, file: str) -> list[Mutant]:
    """All of a file, in their order."""
    source = (root / file).read_bytes()
    seen: Counter[str] = Counter()
    found = []
    for mutant in _Walk(file, source).all():
        found.append(replace(mutant, number=seen[mutant.key]))
        seen[mutant.key] += 1
    return found


def sample(root: Path, areas: Sequence[tuple[Sequence[str], int]], seed: int) -> list[Mutant]:
    """Of each area (files or folders, and how many), drawn without replacement."""
    rng = random.Random(seed)
    drawn = []
    for places, count in areas:
        files = [f for p in places for f in ([root / p] if p.endswith(".py") else sorted((root / p).rglob("*.py")))]
        pool = [m for f in files for m in mutants(root, f.relative_to(root).as_posix())]
        drawn += rng.sample(pool, min(count, len(pool)))
    return drawn


class _Walk:
    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source = file, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.scope: list[str] = []

    def all(self) -> Iterator[Mutant]:
        yield from self._body(ast.parse(self.source).body)

    def _body(self, statements: Sequence[ast.stmt]) -> Iterator[Mutant]:
        for statement in statements:
            yield from self._statement(statement, len(statements) > 1)

    def _statement(self, node: ast.stmt, removable: bool) -> Iterator[Mutant]:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.Global() | ast.Nonlocal():
                return
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
            case ast.Expr(value=ast.Constant()):
                return
            case ast.FunctionDef() | ast.ClassDef():
                for decorator in node.decorator_list:
                    yield from self._expression(decorator)
                self.scope.append(node.name)
                if isinstance(node, ast.FunctionDef):
                    for default in [*node.args.defaults, *node.args.kw_defaults]:
                        if default is not None:
                            yield from self._expression(default)
                yield from self._body(node.body)
                self.scope.pop()
                return
            case ast.Raise():
                if not self.scope or not removable:
                    return
                yield self._made(node, "pass", "removed")
                return
            case ast.Expr(value=ast.Call()) | ast.AugAssign() if self.scope:
                yield self._made(node, "pass", "removed")
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                return
            case ast.Continue():
                yield self._made(node, "break", "statement")
            case ast.Break():
                yield self._made(node, "continue", "statement")
        if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC and not _text(node.value):
            changed = copy.copy(node)
            changed.op = ARITHMETIC[type(node.op)]()
            yield self._made(node, ast.unparse(changed), "arithmetic")
        if isinstance(node, ast.If | ast.While):
            yield self._made(node.test, f"not ({ast.unparse(node.test)})", "condition")
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "type_comment", "type_params"):
                continue
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.stmt):
                    yield from self._statement(part, not isinstance(value, list) or len(value) > 1)
                elif isinstance(part, ast.expr):
                    yield from self._expression(part)
                elif isinstance(part, ast.ExceptHandler):
                    yield from self._body(part.body)
                elif isinstance(part, ast.match_case):
                    if part.guard is not None:
                        yield from self._expression(part.guard)
                    yield from self._body(part.body)

    def _expression(self, node: ast.expr) -> Iterator[Mutant]:
        if isinstance(node, ast.JoinedStr) or _text(node):
            return
        for kind, changed in _changes(node):
            yield self._made(node, f"({ast.unparse(changed)})", kind)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from self._expression(child)
            elif isinstance(child, ast.keyword):
                yield from self._expression(child.value)
            elif isinstance(child, ast.comprehension):
                yield from self._expression(child.iter)
                for test in child.ifs:
                    yield self._made(test, f"(not ({ast.unparse(test)}))", "condition")
                    yield from self._expression(test)

    def _made(self, node: ast.expr | ast.stmt, new: str, kind: str) -> Mutant:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self.starts[node.lineno - 1] + node.col_offset
        end = self.starts[node.end_lineno - 1] + node.end_col_offset
        old = self.source[start:end].decode()
        scope = ".".join(self.scope)
        return Mutant(self.file, scope, kind, old, new, 0, node.lineno, node.end_lineno, (start, end))


def _text(node: ast.expr) -> bool:
    """Whether an expression is, or is added to, a text."""
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(left=left, right=right, op=ast.Add() | ast.Mod()):
            return _text(left) or _text(right)
    return False


def _changes(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Compare(ops=[op]):
            for other in COMPARISONS.get(type(op), ()):
                yield "comparison", ast.Compare(node.left, [other()], node.comparators)
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                other = COMPARISONS[type(op)][0]
                yield "comparison", ast.Compare(node.left, [*ops[:index], other(), *ops[index + 1 :]], node.comparators)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            yield "arithmetic", ast.BinOp(left, ARITHMETIC[type(op)](), right)
        case ast.BoolOp(op=op, values=values):
            yield "boolean", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield "unary", operand
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "condition", ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Constant(value=bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield "constant", ast.Constant(value + 1)
        case ast.Constant(value=float() as value):
            yield "constant", ast.Constant(value * 2 if value else 1.0)
        case ast.Call(func=func, args=[first, second, *rest], keywords=keywords):
            name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
            if name not in COMMUTATIVE and not any(isinstance(a, ast.Starred) for a in (first, second)):
                yield "arguments", ast.Call(func, [second, first, *rest], keywords)
