"""Markdown for TensorBoard: the configuration, the stages, and predictions on a few pairs."""

import json
import re
from collections.abc import Sequence

from msp_ds.config import RunConfig, to_json
from msp_ds.curriculum import Stage
from msp_ds.terminal import printable
from msp_ds.training.monitoring.samples import Guess, MaskedPrediction, Sample, join_pieces


def config_text(config: RunConfig) -> str:
    """The configuration of a run as JSON."""
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
    """Predictions on pairs: a paragraph and a table each."""
    return "\n\n".join(_one_sample(sample) for sample in samples)


def _one_sample(sample: Sample) -> str:
    lines = [f"**{plain(sample.image_id)}** {marked_text(sample)}", ""]
    rows = [_row("word", word) for word in sample.words]
    rows += [_row(f"region {region.position}", region) for region in sample.objects]
    if rows:
        lines += ["| hidden | right | guesses |", "|---|---|---|", *rows, ""]
    if sample.predicted_topics or sample.right_topics:
        right = ", ".join(plain(name) for name in sample.right_topics) or "none"
        lines += [f"topics: {_guesses(sample.predicted_topics) or 'none'}; right: {right}", ""]
    if sample.match is not None:
        lines.append(f"text and image match: {sample.match:.2f}")
    return "\n".join(lines)


def marked_text(sample: Sample) -> str:
    """The text with its hidden pieces in bold."""
    return join_pieces(sample, hidden="**[{}]**", shown=plain)


def _row(what: str, masked: MaskedPrediction) -> str:
    hit = " ✓" if masked.is_right else ""
    return f"| {what} | {plain(masked.right)}{hit} | {_guesses(masked.guesses)} |"


def _guesses(guesses: Sequence[Guess]) -> str:
    return ", ".join(f"{plain(name)} {probability:.2f}" for name, probability in guesses)


def plain(text: str) -> str:
    """Escape a text for Markdown."""
    harmless = re.sub(r"([\\`*{}\[\]#~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", printable(text))
    return harmless.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
