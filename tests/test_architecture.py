"""The house rules of msp_ds/, read from its syntax trees; and, for each rule, a small wrong package that it catches."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FACE = ""
"""The folder of msp_ds/__init__.py itself: what `import msp_ds` offers."""
FOUNDATION = frozenset(
    {
        *("errors", "stateless_random", "records", "detector_record", "number_checks"),
        *("storage", "config", "presets"),
    }
)
LAYERS: tuple[frozenset[str], ...] = (
    FOUNDATION,
    frozenset({"data", "model"}),
    frozenset({"tasks", "demo_world"}),
    frozenset({"preparation"}),
    frozenset({"downstream", "regions"}),
    frozenset({"curriculum"}),
    frozenset({"terminal"}),
    frozenset({"progress"}),
    frozenset({"training"}),
    frozenset({"evaluation"}),
    frozenset({"library"}),
    frozenset({FACE}),
    frozenset({"ablation", "exchange", "report"}),
    frozenset({"train"}),
    frozenset({"cli"}),
)
"""A folder imports from the layers before its own; within a layer only the foundation's know each other."""

SUB_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "data": ("progress", "format", "loading", "remote"),
    "demo_world": ("random_stream", "vocabulary", "relations", "layout", "scenes", "detector", "language", "writing"),
    "model": ("weights",),
    "preparation": (
        *("parsing", "sources", "region_features", "recipe", "overlap", "exclusion"),
        *("texts", "hard_negatives", "verifying", "writing"),
    ),
    "regions": ("detector", "selection", "pooling", "pictures", "detectors"),
    "report": ("box_map", "shard_set", "pages"),
    "training": (
        *("distributed", "engine", "settings", "checkpointing", "pretraining_model", "batch_loader"),
        *("guards", "memory", "monitoring"),
    ),
}
"""Folder -> its folders and, between them, files of its own: each imports from those before it. Files that are not
listed come after all of them."""

CONFINED = {"deepspeed": {"training"}, "webdataset": {"data", "preparation"}, "typer": {"cli", "train"}}
"""Library -> the folders that may import it."""

SAFE_OF_RICH = frozenset(
    {
        "rich.console.Group",
        "rich.console.RenderableType",
        "rich.padding.Padding",
        "rich.live.Live",
        "rich.cells.cell_len",
    }
    | {f"rich.progress.{name}" for name in ("BarColumn", "Progress", "TaskProgressColumn")}
)
"""What of rich no text passes through; texts, tables and consoles come from msp_ds.terminal, bars from msp_ds.progress,
where a user's text is no markup and its control characters are escaped."""

ENTRY_POINTS = {"train", "cli"}
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 350
MAX_FOLDER_FILES = 12
"""Beside __init__.py."""


@dataclass(frozen=True)
class Module:
    """One file of the package under test."""

    name: str
    source: str
    tree: ast.Module = field(repr=False)

    @property
    def folder(self) -> str:
        """`data` of msp_ds.data.loading.reader; empty for msp_ds itself."""
        return _folder(self.name)


Package = Mapping[str, Module]
Rule = Callable[[Package], list[str]]


def _folder(name: str) -> str:
    return name.partition(".")[2].partition(".")[0]


def _package(sources: Mapping[str, str]) -> Package:
    return {name: Module(name, source, ast.parse(source)) for name, source in sources.items()}


def _read_package() -> Package:
    sources = {}
    for path in sorted((ROOT / "msp_ds").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return _package(sources)


def _imports(module: Module, package: Package) -> Iterator[str]:
    """Full names of what a module imports, wherever in the file: msp_ds.data.loading.reader, deepspeed.comm."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in package else str(node.module)


def _layer(folder: str) -> int | None:
    return next((height for height, folders in enumerate(LAYERS) if folder in folders), None)


def _may_import(folder: str, other: str) -> bool:
    if folder == other:
        return True
    here, there = _layer(folder), _layer(other)
    if here is None or there is None:
        return False
    return there < here or {folder, other} <= FOUNDATION


def folders_import_downwards(package: Package) -> list[str]:
    return [
        f"{module.name} imports {target}"
        for module in package.values()
        for target in _imports(module, package)
        if target.split(".")[0] == "msp_ds" and not _may_import(module.folder, _folder(target))
    ]


def _place(name: str) -> int:
    """Where a module stands in the order of its folder."""
    order, parts = SUB_FOLDERS.get(_folder(name), ()), name.split(".")
    return order.index(parts[2]) if len(parts) > 2 and parts[2] in order else len(order)


def sub_folders_import_one_way(package: Package) -> list[str]:
    return [
        f"{module.name} imports {target}"
        for module in package.values()
        for target in _imports(module, package)
        if target in package and _folder(target) == module.folder and _place(target) > _place(module.name)
    ]


def folders_hold_a_dozen_files(package: Package) -> list[str]:
    folders = Counter(name.rpartition(".")[0] for name in package if not any(n.startswith(f"{name}.") for n in package))
    return [f"{name} holds {count} files" for name, count in folders.items() if count > MAX_FOLDER_FILES]


def class_names_are_unique(package: Package) -> list[str]:
    homes: dict[str, list[str]] = {}
    for module in package.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module.name)
    return [f"{name} is a class of {' and '.join(found)}" for name, found in homes.items() if len(found) > 1]


def every_file_is_in_a_folder(package: Package) -> list[str]:
    return [f"{name} is in no known folder" for name in package if name != "msp_ds" and _layer(_folder(name)) is None]


def modules_form_no_cycle(package: Package) -> list[str]:
    edges = {name: set(_imports(module, package)) & (package.keys() - {name}) for name, module in package.items()}
    while leaves := [name for name, targets in edges.items() if not targets]:
        edges = {name: targets.difference(leaves) for name, targets in edges.items() if name not in leaves}
    return [f"{name} is in or above an import cycle" for name in edges]


def imports_are_absolute(package: Package) -> list[str]:
    return [
        f"{module.name}:{node.lineno} imports relatively"
        for module in package.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def libraries_stay_in_their_folders(package: Package) -> list[str]:
    return [
        f"{module.name} imports {target}"
        for module in package.values()
        for target in _imports(module, package)
        if module.folder not in CONFINED.get(target.split(".")[0], {module.folder})
    ]


def texts_are_shown_by_the_terminal(package: Package) -> list[str]:
    return [
        f"{module.name} imports {name}"
        for module in package.values()
        if module.folder not in ("terminal", "progress")
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if (name := f"{getattr(node, 'module', '')}.{alias.name}".lstrip(".")).split(".")[0] == "rich"
        and name not in SAFE_OF_RICH
    ]


def names_are_not_taken(package: Package) -> list[str]:
    taken = (sys.stdlib_module_names | packages_distributions().keys()) - {"msp_ds"}
    return [f"{name} has a library's name" for name in package if taken.intersection(name.split("."))]


def functions_are_short(package: Package) -> list[str]:
    return [
        f"{module.name}.{node.name} has {length} lines"
        for module in package.values()
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def files_are_short(package: Package) -> list[str]:
    lengths = {name: len(module.source.splitlines()) for name, module in package.items()}
    return [f"{name} has {length} lines" for name, length in lengths.items() if length > MAX_FILE_LINES]


def nothing_asserts_or_prints(package: Package) -> list[str]:
    return [
        f"{module.name}:{node.lineno} asserts or prints"
        for module in package.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
    ]


def _undocumented(node: ast.AST, name: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            full_name = f"{name}.{child.name}"
            if ast.get_docstring(child) is None:
                yield f"{full_name} has no docstring"
            if isinstance(child, ast.ClassDef):
                yield from _undocumented(child, full_name)


def public_names_have_docstrings(package: Package) -> list[str]:
    return [fault for module in package.values() for fault in _undocumented(module.tree, module.name)]


def importing_only_defines(package: Package) -> list[str]:
    """No calls for their effect, loops or context managers at a module's top level, the entry points apart."""
    return [
        f"{module.name}:{node.lineno} does something on import"
        for module in package.values()
        if module.folder not in ENTRY_POINTS
        for node in module.tree.body
        if isinstance(node, (ast.For, ast.While, ast.With, ast.Delete))
        or (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant))
    ]


LONG_FUNCTION = "def walk():\n    'It walks.'\n" + "    x = 1\n" * MAX_FUNCTION_LINES
FITTING_FUNCTION = "def walk():\n    'It walks.'\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 2)

# rule, a package that breaks it, the first fault it reports, a package just inside the rule
CASES: list[tuple[Rule, dict[str, str], str, dict[str, str]]] = [
    (
        folders_import_downwards,
        {"msp_ds.data.loading.reader": "from msp_ds.model.encoder import Encoder"},
        "msp_ds.data.loading.reader imports msp_ds.model.encoder",
        {
            "msp_ds.records": "",
            "msp_ds.tasks.mlm": "from msp_ds.model.encoder import Encoder\nfrom msp_ds import records",
        },
    ),
    (
        folders_import_downwards,
        {"msp_ds.model.heads": "def f():\n    import msp_ds.tasks.mlm"},
        "msp_ds.model.heads imports msp_ds.tasks.mlm",
        {"msp_ds.training.loop": "import msp_ds.tasks.mlm, msp_ds.curriculum"},
    ),
    (
        folders_import_downwards,
        {"msp_ds.records": "", "msp_ds.stateless_random": "from msp_ds import train", "msp_ds.train": ""},
        "msp_ds.stateless_random imports msp_ds.train",
        {"msp_ds.config": "from msp_ds.errors import InputError", "msp_ds.train": "from msp_ds.report import tables"},
    ),
    (
        every_file_is_in_a_folder,
        {"msp_ds.utils.misc": ""},
        "msp_ds.utils.misc is in no known folder",
        {"msp_ds.data.format.text": ""},
    ),
    (
        sub_folders_import_one_way,
        {"msp_ds.data.format.shards": "import msp_ds.data.loading.order", "msp_ds.data.loading.order": ""},
        "msp_ds.data.format.shards imports msp_ds.data.loading.order",
        {"msp_ds.data.loading.order": "import msp_ds.data.format.shards", "msp_ds.data.format.shards": ""},
    ),
    (
        sub_folders_import_one_way,
        {"msp_ds.training.engine.engine": "import msp_ds.training.loop", "msp_ds.training.loop": ""},
        "msp_ds.training.engine.engine imports msp_ds.training.loop",
        {"msp_ds.training.loop": "import msp_ds.training.engine.engine", "msp_ds.training.engine.engine": ""},
    ),
    (
        folders_hold_a_dozen_files,
        {"msp_ds.data": "", "msp_ds.data.format": ""} | {f"msp_ds.data.format.f{n}": "" for n in range(13)},
        "msp_ds.data.format holds 13 files",
        {"msp_ds.data": "", "msp_ds.data.format": ""} | {f"msp_ds.data.format.f{n}": "" for n in range(12)},
    ),
    (
        class_names_are_unique,
        {"msp_ds.data.a": "class Part: ...", "msp_ds.tasks.b": "class Part: ..."},
        "Part is a class of msp_ds.data.a and msp_ds.tasks.b",
        {"msp_ds.data.a": "class Part: ...", "msp_ds.tasks.b": "class Other: ..."},
    ),
    (
        modules_form_no_cycle,
        {"msp_ds.data.a": "import msp_ds.data.b", "msp_ds.data.b": "def f():\n    from msp_ds.data import a"},
        "msp_ds.data.a is in or above an import cycle",
        {"msp_ds.data.a": "import msp_ds.data.b", "msp_ds.data.b": "import msp_ds.data.c", "msp_ds.data.c": ""},
    ),
    (
        imports_are_absolute,
        {"msp_ds.data.a": "from . import b"},
        "msp_ds.data.a:1 imports relatively",
        {"msp_ds.data.a": "from msp_ds.data import b"},
    ),
    (
        libraries_stay_in_their_folders,
        {"msp_ds.report.table": "def f():\n    import deepspeed.comm"},
        "msp_ds.report.table imports deepspeed.comm",
        {"msp_ds.training.engine.engine": "import deepspeed, torch"},
    ),
    (
        libraries_stay_in_their_folders,
        {"msp_ds.training.loop": "from webdataset import TarWriter"},
        "msp_ds.training.loop imports webdataset",
        {"msp_ds.data.format.shards": "from webdataset import TarWriter"},
    ),
    (
        libraries_stay_in_their_folders,
        {"msp_ds.config": "import typer"},
        "msp_ds.config imports typer",
        {"msp_ds.cli": "import typer", "msp_ds.train": "import typer"},
    ),
    (
        texts_are_shown_by_the_terminal,
        {"msp_ds.report.runs": "def f():\n    from rich.console import Console"},
        "msp_ds.report.runs imports rich.console.Console",
        {"msp_ds.report.runs": "from rich.padding import Padding", "msp_ds.terminal": "from rich.text import Text"},
    ),
    (names_are_not_taken, {"msp_ds.token": ""}, "msp_ds.token has a library's name", {"msp_ds.records": ""}),
    (
        names_are_not_taken,
        {"msp_ds.data.numpy": ""},
        "msp_ds.data.numpy has a library's name",
        {"msp_ds.data.arrays": ""},
    ),
    (
        functions_are_short,
        {"msp_ds.train": LONG_FUNCTION},
        "msp_ds.train.walk has 62 lines",
        {"msp_ds.train": FITTING_FUNCTION},
    ),
    (
        files_are_short,
        {"msp_ds.train": "x = 1\n" * 351},
        "msp_ds.train has 351 lines",
        {"msp_ds.train": "x = 1\n" * 350},
    ),
    (
        nothing_asserts_or_prints,
        {"msp_ds.train": "x = 1\nassert x"},
        "msp_ds.train:2 asserts or prints",
        {"msp_ds.train": "if 0:\n    raise ValueError"},
    ),
    (
        nothing_asserts_or_prints,
        {"msp_ds.cli": "def f():\n    print(1)"},
        "msp_ds.cli:2 asserts or prints",
        {"msp_ds.cli": "console.print(1)"},
    ),
    (
        public_names_have_docstrings,
        {"msp_ds.data.a": "class Reader:\n    'Reads.'\n    def read(self): ..."},
        "msp_ds.data.a.Reader.read has no docstring",
        {"msp_ds.data.a": "class Reader:\n    'Reads.'\n    def _read(self): ...\ndef _f():\n    def g(): ..."},
    ),
    (
        importing_only_defines,
        {"msp_ds.data.a": "import torch\ntorch.manual_seed(0)"},
        "msp_ds.data.a:2 does something on import",
        {"msp_ds.data.a": "'Text.'\nLIMIT = 3\n'Pieces.'", "msp_ds.cli": "app.command()(f)"},
    ),
]

RULES = list(dict.fromkeys(rule for rule, *_ in CASES))


@pytest.fixture(scope="module")
def package() -> Package:
    return _read_package()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule, package: Package) -> None:
    assert rule(package) == []


@pytest.mark.parametrize(("rule", "wrong", "fault", "_right"), CASES, ids=lambda part: getattr(part, "__name__", ""))
def test_the_rule_catches_a_wrong_package(rule: Rule, wrong: dict[str, str], fault: str, _right: object) -> None:
    assert rule(_package(wrong))[:1] == [fault]


@pytest.mark.parametrize(("rule", "_wrong", "_fault", "right"), CASES, ids=lambda part: getattr(part, "__name__", ""))
def test_the_rule_accepts_a_correct_package(rule: Rule, _wrong: object, _fault: str, right: dict[str, str]) -> None:
    assert rule(_package(right)) == []


def test_the_tools_show_their_texts_by_the_terminal_and_end_as_commands_do() -> None:
    sources = {f"tools.{path.stem}": path.read_text(encoding="utf-8") for path in (ROOT / "tools").rglob("*.py")}
    programs = {name for name, source in sources.items() if "__main__" in source}
    assert len(programs) > 15
    assert texts_are_shown_by_the_terminal(_package(sources)) == []
    assert programs == {name for name, source in sources.items() if "\n    run_tool(" in source}


def test_the_walk_finds_the_folders_that_exist(package: Package) -> None:
    assert {"msp_ds", "msp_ds.records", "msp_ds.tasks", "msp_ds.data", "msp_ds.model"} <= package.keys()


def _import_in_fresh_python(statement: str, *, probe: str) -> str:
    """What `probe` prints after `statement` in a new interpreter, and anything else that was printed."""
    command = [sys.executable, "-W", "ignore", "-c", f"import sys\n{statement}\nprint({probe})"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    return done.stdout + done.stderr


def test_light_folders_import_without_deepspeed_and_print_nothing(package: Package) -> None:
    heavy = {"training", "evaluation", "library", "ablation", "exchange", "report", *ENTRY_POINTS}
    light = [name for name, module in package.items() if module.folder not in heavy]
    assert _import_in_fresh_python(f"import {', '.join(light)}", probe="'deepspeed' in sys.modules") == "False\n"


def test_the_package_imports_without_torch() -> None:
    assert _import_in_fresh_python("import msp_ds; msp_ds.load", probe="'torch' in sys.modules") == "False\n"


def test_the_import_check_finds_an_import_and_a_print() -> None:
    assert _import_in_fresh_python("import this", probe="'this' in sys.modules").endswith("!\nTrue\n")
