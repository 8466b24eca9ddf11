"""The house stands as it is drawn: folders import only from folders above them, and functions stay short."""

from __future__ import annotations

import ast
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "c3d_extract"
FOLDERS = [
    "sources", "decode", "preprocess", "models", "weights", "compute", "output", "pipeline", "distributed",
    "analysis", "pages", "train", "cli",
]  # fmt: skip
"""From top to bottom; the modules of the package's root stand above them all."""
OWNERS = {
    "av": {"decode"},
    "fsspec": {"object_store"},
    "h5py": {"hdf5"},
    "pandas": {"dataframes"},
    "pyarrow": {"parquet"},
    "sqlite3": {"output"},
    "sklearn": {"analysis"},
    "scipy": {"analysis"},
    "matplotlib": {"analysis", "train"},
    "umap": {"analysis"},
    "plotly": {"pages"},
    "click": {"cli"},
    "rich": {"cli"},
    "PIL": {"decode"},
    "ray": {"distributed"},
    "torchvision": {"models"},
}
"""Library → the folders, or modules of the root, that may import it."""


def _modules() -> dict[str, Path]:
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


MODULES = _modules()


def _imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever it does: in functions and for type checkers, too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found


IMPORTS = {name: _imported(path) for name, path in MODULES.items()}


def _folder(module: str) -> str:
    """The folder below the package; a module of the root is its own."""
    return module.split(".")[1] if "." in module else ""


def _rank(module: str) -> int:
    folder = _folder(module)
    return FOLDERS.index(folder) + 1 if folder in FOLDERS else 0


def test_every_folder_is_in_the_list() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == set(FOLDERS)


def test_a_folder_imports_only_from_folders_above_it() -> None:
    # The face of the package and its door for `python -m` name what is below: lazily, and last.
    faces = {"c3d_extract", "c3d_extract.__main__"}
    wrong = [
        f"{module} imports {target}"
        for module, targets in sorted(IMPORTS.items())
        if module not in faces
        for target in sorted(targets)
        if target.split(".")[0] == "c3d_extract" and _rank(target) > _rank(module)
    ]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    # A package's __init__ names what is in it; whoever imports from the package needs it, not the reverse.
    graph = {
        module: {target for target in targets if target in MODULES and target != module}
        for module, targets in IMPORTS.items()
        if MODULES[module].name != "__init__.py"
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' → '.join([*path[path.index(module) :], module])}"
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_has_one_owner(library: str) -> None:
    users = {
        _folder(module)
        for module, targets in IMPORTS.items()
        if any(target.split(".")[0] == library for target in targets)
    }
    assert users <= OWNERS[library]
    assert users, f"nothing imports {library}"


def _functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return [
        (f"{name}:{node.name}", node)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_functions_are_short_and_take_few_parameters() -> None:
    lengths = {}
    for name, node in _functions():
        assert node.end_lineno is not None
        lengths[name] = node.end_lineno - node.lineno + 1
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        n_given = len([argument for argument in given if argument.arg not in {"self", "cls"}])
        assert n_given <= 8, f"{name} takes {n_given} parameters"
    longest = max(lengths, key=lambda name: lengths[name])
    assert statistics.median(lengths.values()) <= 8
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= 22
    assert lengths[longest] <= 60, f"{longest} has {lengths[longest]} lines"


def test_c_is_for_the_pixels_of_decoding_alone() -> None:
    files = [path for pattern in ("*.c", "*.h") for path in PACKAGE.rglob(pattern)]
    assert 0 < sum(len(path.read_text("utf-8").splitlines()) for path in files) <= 410


def test_tests_mirror_the_package() -> None:
    here = Path(__file__).parent
    folders = {path.name for path in here.iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert folders == set(FOLDERS)
    names = sorted(path.name for path in here.rglob("test_*.py"))
    assert [a for a, b in pairwise(names) if a == b] == []
