"""Mutation testing: makes small changes to the code, one at a time, which tests should notice.

    python -m tests.mutation [alignment scores model] [--n 50] [--seed 1]

No file is changed: each mutant is imported in a forked process, and the tests run there. Mutants
that survive are printed; without --n, all mutants are tried.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py  # noqa: F401
import hypothesis  # noqa: F401
import numpy  # noqa: F401
import pytest
import sklearn.metrics  # noqa: F401
import torch  # noqa: F401

ROOT = Path(__file__).parent.parent
SECONDS = 120  # a mutant may loop without end
# The modules that are changed, and their tests.
TARGETS = {
    "alignment": (["data.preparing.alignment"], ["tests/data/preparing/test_alignment.py"]),
    "scores": (
        ["utils.tasks.sentiment", "utils.tasks.sums", "utils.tasks.metrics"],
        ["tests/utils/tasks"],
    ),
    "model": (
        ["models.nhfnet.model"],
        ["tests/models/test_models.py", "tests/models/nhfnet/test_variants.py"],
    ),
}
_SWAPS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}


class Mutator(ast.NodeTransformer):
    """Makes the change of one number, of all possible changes, which it counts."""

    def __init__(self, number: int) -> None:
        self.number, self.count, self.description = number, 0, ""

    def _is_next(self, node: ast.AST, change: str) -> bool:
        is_next = self.count == self.number
        self.count += 1
        if is_next:
            self.description = f"line {getattr(node, 'lineno', 0)}: {change}"
        return is_next

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Change an operator, then visit the node's children; annotations are not changed."""
        for name, swapped in self._operators(node):
            if self._is_next(node, f"{type(swapped).__name__} instead, in {ast.unparse(node)}"):
                setattr(node, name, [swapped] if name == "ops" else swapped)
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, None)
        return super().generic_visit(node)

    def _operators(self, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
        operators = getattr(node, "ops", [])[:1] or [getattr(node, "op", None)]
        if type(operators[0]) in _SWAPS:
            yield "ops" if hasattr(node, "ops") else "op", _SWAPS[type(operators[0])]()

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, (ast.Not, ast.USub, ast.Invert)) and self._is_next(
            node, f"without {type(node.op).__name__}: {ast.unparse(node)}"
        ):
            return node.operand
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) in (int, float, bool) and self._is_next(node, f"another {node.value}"):
            new = not node.value if type(node.value) is bool else node.value + 1
            return ast.copy_location(ast.Constant(new), node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node


def source_of(module: str) -> str:
    """Return a module's source."""
    return (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")


def mutant(module: str, number: int) -> tuple[ast.Module, Mutator]:
    """Return a module's tree with the change of this number, and the mutator that made it."""
    mutator = Mutator(number)
    return ast.fix_missing_locations(mutator.visit(ast.parse(source_of(module)))), mutator


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a syntax tree instead of its file."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self._module, self._tree = module, tree

    def find_spec(self, name, path, target=None):
        if name != self._module:
            return None
        path = ROOT / (name.replace(".", "/") + ".py")
        return importlib.util.spec_from_loader(name, self, origin=str(path))

    def exec_module(self, module) -> None:
        module.__file__ = module.__spec__.origin
        exec(compile(self._tree, module.__file__, "exec"), module.__dict__)


def survives(module: str, tree: ast.Module, tests: list[str]) -> bool:
    """Tell whether all tests pass when the module is imported from this tree."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            signal.alarm(SECONDS)
            sys.meta_path.insert(0, Finder(module, tree))
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
            code = pytest.main([*options, *(str(ROOT / test) for test in tests)])
        finally:
            os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def main() -> None:
    """Test the mutants; print those that survive, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--n", type=int, help="mutants of each target (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for target in options.targets:
        modules, tests = TARGETS[target]
        mutants = [
            (module, number) for module in modules for number in range(mutant(module, -1)[1].count)
        ]
        tried = mutants
        if options.n is not None and options.n < len(mutants):
            tried = random.Random(options.seed).sample(mutants, options.n)
        begin, survivors = time.monotonic(), 0
        assert survives("none", ast.parse(""), tests), f"{target}: the tests fail without a change"
        for module, number in tried:
            tree, mutator = mutant(module, number)
            if survives(module, tree, tests):
                survivors += 1
                print(f"  survives: {module}, {mutator.description}", flush=True)
        seconds = time.monotonic() - begin
        print(
            f"{target}: {len(tried)} of {len(mutants)} mutants in {seconds:.0f} s, "
            f"{survivors} survived",
            flush=True,
        )


if __name__ == "__main__":
    main()
