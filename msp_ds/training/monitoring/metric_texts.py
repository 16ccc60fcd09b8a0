"""Texts for TensorBoard, as Markdown: the configuration, the stages, and what the model says of a few pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from msp_ds.config import RunConfig, to_json
from msp_ds.curriculum import Stage
from msp_ds.terminal import printable
from msp_ds.training.monitoring.samples import Guess, MaskedPrediction, Sample


def config_text(config: RunConfig) -> str:
    """The whole configuration of a run."""
    return f"```json\n{json.dumps(to_json(config), indent=2, ensure_ascii=False)}\n```"


def stage_text(stages: Sequence[Stage], config: RunConfig) -> str:
    """The stages of a run as a table."""
    rows = ["| stage | tasks | epochs | batch |", "|---|---|---|---|"]
    for stage in stages:
        row = stage.schedule(config.schedule)
        tasks = ", ".join(task.name for task in stage.tasks)
        rows.append(f"| {stage.name} | {plain(tasks)} | {row.epochs} | {row.batch_size} |")
    return "\n".join(rows)


def sample_text(samples: Sequence[Sample]) -> str:
    """What the model says of pairs: a paragraph and a table each."""
    return "\n\n".join(_one_sample(sample) for sample in samples)


def _one_sample(sample: Sample) -> str:
    lines = [f"**{plain(sample.image_id)}** {marked_text(sample)}", ""]
    rows = [_row("word", question) for question in sample.words]
    rows += [_row(f"region {question.place}", question) for question in sample.objects]
    if rows:
        lines += ["| hidden | right | guesses |", "|---|---|---|", *rows, ""]
    if sample.said_topics or sample.right_topics:
        lines += [f"topics: {_guesses(sample.said_topics) or 'none'}; right: {_listed(sample.right_topics)}", ""]
    if sample.match is not None:
        lines.append(f"text and image match: {sample.match:.2f}")
    return "\n".join(lines)


def marked_text(sample: Sample) -> str:
    """The text with its hidden pieces bold; pieces of one word together."""
    hidden = {question.place for question in sample.words}
    text = ""
    for place, piece in enumerate(sample.pieces[1:-1], start=1):
        joined = "" if piece.startswith("##") else " "
        bare = plain(piece.removeprefix("##"))
        text += joined + (f"**[{bare}]**" if place in hidden else bare)
    return text.strip()


def _row(what: str, question: MaskedPrediction) -> str:
    hit = " ✓" if question.guesses and question.guesses[0][0] == question.right else ""
    return f"| {what} | {plain(question.right)}{hit} | {_guesses(question.guesses)} |"


def _guesses(guesses: Sequence[Guess]) -> str:
    return ", ".join(f"{plain(name)} {chance:.2f}" for name, chance in guesses)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(plain(name) for name in names) or "none"


def plain(text: str) -> str:
    """A text that Markdown shows as it is."""
    harmless = re.sub(r"([\\`*{}\[\]#~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", printable(text))
    return harmless.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
