"""The rooms of the package and who may import whom; ``python -m tests.house`` prints the table."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "futurefill_kernels"

#: Rooms from the top floor down: a module imports from its own room and from those below it.
ROOMS = (
    "__main__", "cli", "__init__", "hf", "volterra", "adapting", "decoding", "nn", "cache",
    "implementations", "planning", "functional", "state", "reference", "ops", "plan", "level",
    "window", "checks", "native", "_version",
)  # fmt: skip

#: Private names of torch that stand for no public one.
FOREIGN_PRIVATE = (
    "_C", "_buffers", "_dispatch_has_kernel_for_dispatch_key", "_foreach_copy_", "_forward_hooks",
    "_forward_pre_hooks", "_get_schema", "_global_forward_hooks", "_global_forward_pre_hooks",
    "_modules", "_parameters", "_version",
)  # fmt: skip


def modules() -> dict[str, Path]:
    """Dotted names below the package, "" for its ``__init__``, and their files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def room(module: str) -> str:
    """The room that a module stands in."""
    return module.split(".")[0]


def imports(module: str, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports, wherever the statement stands."""
    path = known[module]
    package = list(path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
        base = [part for part in base if part]
        for name in node.names:
            whole = ".".join([*base, name.name])
            found.add(whole if whole in known else ".".join(base) or "__init__")
    return found - {module}


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Longest chain of imports below each module. Raises ValueError for a circle."""
    result: dict[str, int] = {}
    path: list[str] = []

    def floor(module: str) -> int:
        if module in path:
            raise ValueError(" -> ".join([*path[path.index(module) :], module]))
        if module not in result:
            path.append(module)
            result[module] = 1 + max((floor(m) for m in graph[module]), default=-1)
            path.pop()
        return result[module]

    for module in graph:
        floor(module)
    return result


@cache
def graph() -> dict[str, set[str]]:
    """Every module with the modules that it imports."""
    known = modules()
    return {module: imports(module, known) for module in known}


def private_names(source: str) -> list[str]:
    """Names with an underscore that a module takes from elsewhere: ``from x import _name``, and
    ``x._name`` where x is not self or cls and the module defines no ``_name``.
    """
    nodes = list(ast.walk(ast.parse(source)))
    own = set(FOREIGN_PRIVATE)
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and _is_own(node) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
    taken = []
    for node in nodes:
        if isinstance(node, ast.Attribute) and not _is_own(node):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [name.name for name in node.names]
        else:
            continue
        private = [n for n in names if n.startswith("_") and not n.endswith("__") and n not in own]
        taken += [f"line {node.lineno}: {name}" for name in private]
    return taken


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def main() -> None:
    """Print rooms, their modules, floors and what they import."""
    found = graph()
    floor = floors(found)
    print(f"{len(found)} modules on {1 + max(floor.values())} floors")
    for name in ROOMS:
        members = [m for m in found if room(m) == name]
        below = sorted({room(i) for m in members for i in found[m]} - {name}, key=ROOMS.index)
        print(f"\n{name}: {len(members)} modules, imports {', '.join(below) or 'nothing'}")
        for module in members:
            print(f"  {floor[module]:>2}  {module:<44} {', '.join(sorted(found[module]))}")


if __name__ == "__main__":
    main()
