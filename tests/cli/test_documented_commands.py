"""Every command line that the texts and examples of this project show is one that its programs understand."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from msp_ds import cli, train
from msp_ds.cli.data_commands import RECIPE_FLAGS
from msp_ds.config import RunConfig
from msp_ds.curriculum import curriculum
from msp_ds.preparation.recipe import load_recipe, recipe_with
from msp_ds.presets import PRESETS
from msp_ds.training.config_file import build_options
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import with_flags

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "README.md",
    "shards/README.md",
    "ds_configs/README.md",
    *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
    *(f"shards/{p.name}" for p in ROOT.glob("shards/*.toml")),
    *(f"examples/{p.name}" for p in ROOT.glob("examples/*.py")),
]
WITHOUT_COMMANDS = {"docs/architecture.md", "docs/index.md", "docs/tasks.md"}
"""Pages that show no command of these programs."""
PROGRAMS = ("msp-ds", "deepspeed", "torchrun", "python", "python3")
COMMANDS = typer.main.get_group(cli.app).commands
SCRIPT = typer.main.get_command(train.app)
UsageError: Any = typer.BadParameter.__mro__[1]
"""click's, or that of the click which newer versions of typer carry."""
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOTE = re.compile(r"\s{2,}\(.*")
"""Behind a command in the header of a recipe or an example: (then phrase, then sentence)."""


def shown_code(text: str, *, is_recipe: bool) -> Iterator[str]:
    """The code in a text: fenced and indented lines and spans of a page, the comments of a recipe."""
    if is_recipe:
        comments = "\n".join(line.lstrip("#") for line in text.splitlines() if line.startswith("#"))
        for line in comments.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\s)((?:msp-ds|deepspeed|python) .*)", line)
            if found:
                yield NOTE.sub("", found[1])
        return
    for language, block in BLOCK.findall(text):
        yield from block.replace("\\\n", " ").splitlines() if language == "bash" else ()
    rest = BLOCK.sub("", text).replace("\\\n", " ")
    for line in rest.splitlines():
        if line.startswith("    "):
            yield line
    yield from (" ".join(span.split()) for span in SPAN.findall(rest))


def command_lines(name: str) -> Iterator[list[str]]:
    """The words of every command line in a text that runs one of the programs here."""
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    for code in shown_code(text, is_recipe=path.suffix == ".toml"):
        for part in NOTE.sub("", code.rstrip()).split("&&"):
            words = shlex.split(part.strip(), comments=True)
            is_script = any(word.endswith("msp_ds/train.py") for word in words)
            if words[:1] and words[0] in PROGRAMS and (words[0] == "msp-ds" or is_script):
                yield words


SHOWN = [(name, words) for name in TEXTS for words in command_lines(name)]


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Command and parameters of a command line. Raises UsageError for what the program does not know."""
    if words[0] != "msp-ds":
        place = next(number for number, word in enumerate(words) if word.endswith("msp_ds/train.py"))
        return "train", SCRIPT.make_context("train.py", words[place + 1 :]).params
    if words[1] not in COMMANDS:
        raise UsageError(f"no command is called {words[1]}")
    if len(words) == 2 and any(parameter.required for parameter in COMMANDS[words[1]].params):
        return words[1], {}  # a mention in a sentence
    return words[1], COMMANDS[words[1]].make_context(words[1], words[2:]).params


def check_values(command: str, parameters: dict[str, Any]) -> None:
    """What can be checked of the values without data."""
    stated = {name: value for name, value in parameters.items() if value not in (None, (), [])}
    if command == "train":
        preset = PRESETS[stated.get("preset", "tiny")]
        config = RunConfig(
            **{part: getattr(preset, part) for part in ("model", "optim", "schedule", "tasks")},
            curriculum="tps",
            preset="tiny",
            shards="shards",
            vocabulary_sha256="",
        )
        names = RunOptions.__dataclass_fields__
        options = build_options(RunOptions, {name: value for name, value in stated.items() if name in names}, path=None)
        config = with_flags(config, options)
        curriculum(config.curriculum, drop=config.drop)
    if command == "shard":
        shown = stated.get("recipe")
        fields = {name: value for name, value in stated.items() if name in RECIPE_FLAGS}
        recipe_with(load_recipe(ROOT / shown) if shown and (ROOT / shown).exists() else None, fields)


@pytest.mark.parametrize(("name", "words"), SHOWN, ids=[" ".join(words) for _, words in SHOWN])
def test_a_command_that_is_shown_is_understood(name: str, words: list[str]) -> None:
    try:
        command, parameters = parsed(words)
    except UsageError as error:
        pytest.fail(f"{name} shows {' '.join(words)!r}: {error.format_message()}")
    check_values(command, parameters)


def test_the_texts_show_every_kind_of_command() -> None:
    commands = {parsed(words)[0] for _, words in SHOWN}
    assert {
        "shard",
        "train",
        "evaluate",
        "answer",
        "stages",
        "hard-negatives",
        "audit",
        "verify",
        "inspect",
        "info",
        "runs",
        "demo",
        "import",
        "export",
        "finetune",
        "predict",
    } <= commands
    assert {name for name, _ in SHOWN} == set(TEXTS) - WITHOUT_COMMANDS
    assert len(SHOWN) > 30


@pytest.mark.parametrize(
    "line",
    [
        "msp-ds shart --stage token",
        "msp-ds shard --task vkqa",
        "msp-ds shard --stage word",
        "msp-ds train --curiculum tps",
        "deepspeed msp_ds/train.py --curriculum tps --zero 1",
        "msp-ds inspect shards/token/train shards/token/val",
    ],
)
def test_a_wrong_command_line_is_noticed(line: str) -> None:
    with pytest.raises(UsageError):
        parsed(shlex.split(line))
