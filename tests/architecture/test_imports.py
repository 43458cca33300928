"""Imports point down: no arrow climbs or closes a circle; private modules are used at home."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from paths import ROOT

# Lower floors first. A floor may import those before it.
FLOORS = (
    *("recipes", "utils", "recipe", "data", "models", "quantization", "pruning"),
    *("compression", "integrations", "runs", "scoring", "artifact", "training", "reporting", "cli"),
)
COMMANDS = {"train", "score", "export", "report", "demo", "__main__"}
KERNEL_FLOORS = (
    *("scheme", "shapes", "operands", "checks", "backends", "dispatch", "memory"),
    *("flops", "onnx_symbolics", "ops", "lazy"),
)


class Tree:
    """The modules of a package, what each imports of it, and the packages that they are in."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.files = {self._module(path): path for path in sorted(folder.rglob("*.py"))}
        self.arrows = {module: set(self._imports(module)) for module in self.files}

    def _module(self, path):
        parts = [self.name, *path.relative_to(self.folder).with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, module):
        for node in ast.walk(ast.parse(self.files[module].read_text())):
            if isinstance(node, ast.Import):
                yield from (a.name for a in node.names if a.name in self.files)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    around = module.split(".")
                    is_package = self.files[module].name == "__init__.py"
                    kept = len(around) - node.level + is_package
                    base = ".".join([*around[:kept], *([node.module] if node.module else [])])
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    if full in self.files or base in self.files:
                        yield full if full in self.files else base

    def package(self, module):
        """The folder of a module."""
        return module if self.files[module].name == "__init__.py" else module.rpartition(".")[0]

    def floor(self, module):
        """The first folder or file below the root that a module is in."""
        return module.split(".")[1] if "." in module else ""


@pytest.fixture(scope="module")
def ours():
    return Tree(ROOT / "micronet", "micronet")


@pytest.fixture(scope="module")
def kernels():
    return Tree(ROOT / "kernels", "micronet_kernels")


def climbing(tree, floors):
    """Arrows from a floor to one above it; the first word of a file's name is its floor."""

    def rank(module):
        name = tree.floor(module)
        return next(
            (i for i, f in enumerate(floors) if name == f or name.startswith(f"{f}_")), None
        )

    return {
        (module, other)
        for module, others in tree.arrows.items()
        for other in others
        if None not in (rank(module), rank(other)) and rank(module) < rank(other)
    }


def circles(arrows):
    """One circle, or none."""
    try:
        TopologicalSorter(
            {module: others - {module} for module, others in arrows.items()}
        ).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_packages_stand_on_those_below_them(ours):
    assert {ours.floor(module) for module in ours.files} == {"", *FLOORS, *COMMANDS}
    assert not climbing(ours, FLOORS)
    commands = {m for m, others in ours.arrows.items() for o in others if ours.floor(o) in COMMANDS}
    assert {ours.floor(module) for module in commands} <= COMMANDS


def test_kernels_stand_on_those_below_them(kernels):
    assert not climbing(kernels, KERNEL_FLOORS)


def test_no_circles(ours, kernels):
    assert not circles(ours.arrows) and not circles(kernels.arrows)


def test_private_modules_are_used_in_their_own_package_only(ours):
    public = {}
    for module, path in ours.files.items():
        if path.name == "__init__.py":
            names = [
                ast.literal_eval(node.value)
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
            ]
            public[module] = set(*names)
    for module, others in ours.arrows.items():
        for other in others:
            package, name = ours.package(other), other.rpartition(".")[2]
            if package not in (ours.package(module), other, "micronet"):
                assert name in public[package], f"{module} uses {other}"


def test_private_names_are_used_in_their_own_file_only(ours):
    for module, path in ours.files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("micronet."):
                assert not [a.name for a in node.names if a.name.startswith("_")], module


def test_packages_say_what_they_are_and_stay_small(ours):
    packages = {ours.package(module) for module in ours.files} - {"micronet"}
    for package in packages:
        path = ours.files[package]
        assert ast.get_docstring(ast.parse(path.read_text())), package
        assert len(list(path.parent.glob("*.py"))) <= 14, package
    assert {p.stem for p in (ROOT / "micronet").glob("*.py")} == {"__init__", *COMMANDS}


def test_what_others_may_call_has_a_docstring(ours, kernels):
    for tree in (ours, kernels):
        for module, path in tree.files.items():
            if ".triton." in module:
                continue
            for node in public_definitions(ast.parse(path.read_text())):
                assert ast.get_docstring(node), f"{module}.{node.name}"


# Methods whose meaning is torch's.
CONTRACTS = {"forward", "backward", "extra_repr"}


def public_definitions(tree):
    """Public functions and classes of a module, and public methods of those classes."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
            inside = node.body if isinstance(node, ast.ClassDef) else []
            methods = [n for n in inside if isinstance(n, kinds) and n.name not in CONTRACTS]
            yield from (n for n in methods if not n.name.startswith("_"))


# What knows what, in the core ---------------------------------------------------------------------


CORE = ROOT / "csrc"
# What each folder of the core may include.
CORE_FLOORS = {
    "include": {"include"},
    "cpu": {"include", "cpu"},
    "cuda": {"include", "cuda"},
    "engine": {"include", "cpu", "engine"},
    "bindings": {"include", "cpu", "bindings"},
    "tests": {"include", "cpu", "engine", "tests"},
}


def includes(pattern=r'^#include ["<]([^">]+)[">]'):
    """Each file of the core with what it includes of the core and of others."""
    for path in sorted(p for p in CORE.rglob("*") if p.suffix in (".h", ".cpp", ".cu")):
        yield path, re.findall(pattern, path.read_text(), re.MULTILINE)


def test_only_bindings_know_torch():
    """And the device of torch's that tests have, which is part of a module for them alone."""
    knowing = CORE / "bindings", CORE / "tests" / "device"
    for path, names in includes():
        if path.parent in knowing:
            continue
        foreign = [n for n in names if n.startswith(("torch/", "ATen/", "c10/", "pybind11/"))]
        assert not foreign, path


def test_headers_of_the_core_close_no_circle():
    arrows = {
        path.resolve(): {(CORE / n).resolve() for n in names if (CORE / n).exists()}
        for path, names in includes()
    }
    assert sum(map(len, arrows.values())) > 100
    assert not circles(arrows)


def test_the_core_does_not_include_what_is_above_it():
    for path, names in includes(r'^#include "([^"]+)"'):
        floor = path.relative_to(CORE).parts[0]
        assert all((CORE / name).is_file() for name in names), path
        assert {Path(name).parts[0] for name in names} <= CORE_FLOORS[floor], path


def test_nothing_points_up_from_a_package_to_another():
    for folder, above in (("kernels", "micronet"), ("micronet", "benchmarks")):
        for path in (ROOT / folder).rglob("*.py"):
            words = [
                name
                for node in ast.walk(ast.parse(path.read_text()))
                for name in (
                    [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom) and not node.level
                    else []
                )
            ]
            assert above not in {word.split(".")[0] for word in words}, path


# The checks themselves ----------------------------------------------------------------------------


@pytest.fixture
def crooked(tmp_path):
    """A small tree with each fault."""
    files = {
        "__init__.py": "",
        "low/__init__.py": "",
        "low/a.py": "from crooked.high import b",
        "high/__init__.py": "",
        "high/b.py": "def f():\n    from crooked.low.a import x",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return Tree(tmp_path, "crooked")


def test_faults_are_found(crooked):
    assert climbing(crooked, ("low", "high")) == {("crooked.low.a", "crooked.high.b")}
    assert set(circles(crooked.arrows)) == {"crooked.low.a", "crooked.high.b"}
    (node,) = public_definitions(ast.parse("class A:\n    def _f(self): ..."))
    assert not ast.get_docstring(node)
