"""Asks a model about photographs that are in no shard set: what the detector sees, answers, and captions that fit.

    python examples/ask_about_a_photograph.py cat.jpg dog.jpg --checkpoint runs/vqa --detector detector/

The detector is the one that computed the regions of the model's shards. It runs once for each photograph; the regions
are kept in ~/.cache/msp-ds. The model is a run, which finds the words and answers in its shards, or a weights folder of
`msp-ds import` or `msp-ds export`, which holds its own.

Prints two lines for each photograph: the labels of its regions, and the likeliest answers. With --matcher, a model with
a match head as runs/tps, it also prints which caption fits each best.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

import msp_ds
from msp_ds.library import Model
from msp_ds.terminal import run_tool


def ask(photographs: list[Path], model: Model, question: str) -> None:
    """Print the labels of the regions of each photograph, and the likeliest answers to a question about it."""
    for photograph in photographs:
        seen = Counter(label for label in model.describe(photograph)["labels"] if label)
        print(f"{photograph.name}: {', '.join(label for label, _ in seen.most_common(5)) or 'no labels'}")
        answers = model.answer(question, photograph)  # every answer that the model knows, likeliest first
        likeliest = ", ".join(f"{answer} {chance:.0%}" for answer, chance in list(answers.items())[:3])
        print(f"  {question} {likeliest}")


def rank(photographs: list[Path], model: Model, captions: list[str]) -> None:
    """Print the caption that fits each photograph best, from float32 [captions, photographs] scores."""
    scores = model.score(captions, photographs)
    for photograph, best in zip(photographs, scores.argmax(0).tolist(), strict=True):
        print(f"{photograph.name} fits {captions[best]!r} best")


def main(
    photographs: Annotated[list[Path], typer.Argument()],
    checkpoint: Path = Path("runs/vqa"),
    detector: str | None = None,
    matcher: Path | None = None,
    question: str = "What is in the picture?",
    caption: Annotated[list[str] | None, typer.Option()] = None,
) -> None:
    """Ask a fine-tuned model about photographs, and a pre-trained one which captions fit them."""
    ask(photographs, msp_ds.load(checkpoint, detector=detector), question)
    if matcher is not None:
        rank(photographs, msp_ds.load(matcher, detector=detector), caption or ["a cat", "a dog", "a street"])


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
