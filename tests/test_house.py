"""How the package is laid out: its imports, drawn from the sources, go down the floors only."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Top down. A file imports from floors below its own and from its own room; rooms that share a
# floor do not know each other. `hsd_jax.train` is a command, not of the room `training`.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("commands", "train"),
    ("web",),
    ("evaluation", "bench"),
    ("training", "beam"),
    ("batch",),
    ("swap",),
    ("convert",),
    ("swapping",),
    ("parsing",),
    ("imaging",),
    ("diffusion",),
    ("weights",),
    ("models",),
    ("runtime",),
    ("labels", "version"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imported(source: str, modules: set[str], package: str = "") -> set[str]:
    """The modules that a file names in its imports, at any depth, unless for a type checker alone.

    Args:
      source: the text of the file.
      modules: the names of all modules; `from a import b` names `a.b` if that is one of them.
      package: the package that the file is in, for relative imports.
    """
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else base for name in names}
        waiting += ast.iter_child_nodes(node)
    return found


@cache
def drawn() -> dict[str, set[str]]:
    """Each module of the package and what it imports of this repository."""
    paths = {_module(path): path for path in (ROOT / "hsd_jax").rglob("*.py")}
    ours = ("hsd_jax", "configs", "data", "tests")
    return {
        name: {
            target
            for target in imported(path.read_text(encoding="utf-8"), set(paths), _package(path))
            if target.split(".")[0] in ours
        }
        for name, path in paths.items()
    }


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _package(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


def _room(module: str) -> str:
    """The part of the package that a module is in; "" is the package's own `__init__`."""
    return (module.split(".") + [""])[1]


def _arrows(broken) -> set[str]:
    """The imports for which `broken(importer, imported)` holds, as readers see them."""
    return {
        f"{name} -> {target}"
        for name, targets in drawn().items()
        for target in targets
        if broken(name, target)
    }


def test_imports_are_found_where_they_stand():
    source = (
        "import a.b\nfrom a import c, d\nfrom . import e\nfrom .f import g\nfrom ..h import i\n"
        "def late():\n    from late import x\n"
        "if TYPE_CHECKING:\n    import never\nelse:\n    import other\n"
        "try:\n    import tried\nexcept ImportError:\n    pass\n"
    )
    assert imported(source, {"a", "a.c", "p.q.e"}, "p.q") == {
        "a.b", "a.c", "a", "p.q.e", "p.q.f", "p.h", "late", "other", "tried"
    }  # fmt: skip


def test_every_room_has_a_floor():
    rooms = {_room(module) for module in drawn()} - {""}
    assert rooms <= FLOOR.keys(), "a new room: give it a floor in FLOORS"


def test_no_import_goes_up_a_floor():
    def upward(name: str, target: str) -> bool:
        # The package's front door reads what it offers late; everyone may ask for its version.
        if "" in (_room(name), _room(target)) or _room(name) == _room(target):
            return False
        return FLOOR[_room(target)] <= FLOOR[_room(name)]

    assert not _arrows(lambda a, b: b.startswith("hsd_jax") and upward(a, b))


def test_the_package_knows_nothing_of_configs_data_and_tests():
    assert not _arrows(lambda _, target: not target.startswith("hsd_jax"))


def test_training_knows_neither_swaps_nor_evaluation():
    def forbidden(name: str, target: str) -> bool:
        return _room(name) == "training" and _room(target) in ("swap", "evaluation")

    assert not _arrows(forbidden)


def test_no_two_files_import_each_other():
    imports = drawn()
    pairs = {
        frozenset({a, b}) for a, targets in imports.items() for b in targets if a in imports[b]
    }
    assert not pairs


def test_no_imports_go_in_a_circle():
    graph = {name: targets for name, targets in drawn().items() if name != "hsd_jax"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None
