"""What the documentation says of the code is so: its files, its names, its messages, its first steps."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from msp_ds.training.options import RunOptions
from msp_ds.training.planning import preset_config
from msp_ds.training.settings import with_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "shards/README.md", ROOT / "ds_configs/README.md", *sorted(ROOT.glob("docs/*.md"))]
PATH = re.compile(r"`((?:msp_ds|tools|tests|ds_configs|docs|shards)/[\w./-]*\.(?:py|md|sh|toml|json))`")
BELOW_PACKAGE = re.compile(r"`([\w/]+\.py)`")
PROGRAM = (sys.executable, "-c", "from msp_ds.cli import main; main()")
LIMITS = {"README.md": (150, 1200), "shards/README.md": (60, 1000), "ds_configs/README.md": (60, 1000)}
"""Lines and words."""


@pytest.mark.parametrize("name", LIMITS)
def test_an_overview_stays_short(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LIMITS[name][0]
    assert len(text.split()) <= LIMITS[name][1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = PATH.findall(page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_index_of_the_architecture_names_files_and_what_they_define() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [row for row in text.partition("## Where is what?")[2].splitlines() if row.startswith("| ") and "`" in row]
    wrong = []
    for row in rows:
        _, _, places, names, _ = (cell.strip() for cell in row.split("|"))
        files = [ROOT / "msp_ds" / name for name in BELOW_PACKAGE.findall(f"{places} {names}")]
        wrong += [str(file) for file in files if not file.exists()]
        sources = "".join(file.read_text(encoding="utf-8") for file in files if file.exists())
        wrong += [
            name
            for name in re.findall(r"`([\w.]+)`", names)
            if not name.endswith((".py", ".npy")) and not re.search(rf"\b{name.rpartition('.')[2]}\b", sources)
        ]
    assert len(rows) >= 20
    assert wrong == []


def test_every_test_that_a_page_names_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))}
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_every_option_of_the_page_on_tasks_can_be_set() -> None:
    spans = re.findall(r"`([a-z_.]+(?:=[\w.-]+)?)`", (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8"))
    config = preset_config("paper", RunOptions())
    for span in spans:
        name, _, value = span.partition("=")
        if value and not value.isupper():
            with_settings(config, (span,))
        if re.match(r"(itm|ifrs|moc|mrfr|mlm|topic|region|token)_", name):
            assert hasattr(config.tasks, name), name


@cache
def messages() -> str:
    """Every text of the package, a line each, with an ellipsis where a value stands."""
    found = []
    for path in sorted((ROOT / "msp_ds").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts]
            found.append(re.sub(r"%[sdg.0-9f,]+", "…", "".join(texts)))
    return "\n".join(found)


def test_every_message_of_the_page_on_troubles_is_one_of_the_package() -> None:
    rows = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    shown = [text for row in rows if row.startswith("| ") for text in re.findall(r"`([^`]+)`", row.split("|")[1])]
    pieces = {piece.strip(" ;,.():") for text in shown for piece in text.split("…")}
    unknown = [piece for piece in pieces if len(piece) > 3 and piece not in messages()]
    assert len(shown) > 40
    assert unknown == []


def first_steps() -> list[list[str]]:
    """The commands of the quick start in order, the demo's first."""
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("msp-ds ")]


@pytest.mark.full
def test_the_quick_start_runs_on_a_small_world(tmp_path: Path) -> None:
    recipe = (ROOT / "shards" / "demo.toml").read_text(encoding="utf-8")
    recipe = re.sub(r"^images = .*", "images = 210", recipe, flags=re.MULTILINE)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "demo.toml").write_text(
        re.sub(r"^holdout = \d+", "holdout = 30", recipe, flags=re.MULTILINE)
    )
    for words in first_steps():
        if "--image" in words:
            index = json.loads((tmp_path / "shards/sentence/val/index.json").read_text(encoding="utf-8"))
            words[words.index("--image") + 1] = index["shards"][0]["keys"][0]
        ended = subprocess.run([*PROGRAM, *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{' '.join(words)}: {ended.stderr[-2000:]}"
    assert (tmp_path / "found.html").is_file()
