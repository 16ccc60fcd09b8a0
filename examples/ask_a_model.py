"""Asks trained models about the held-out pictures of the demo world: match scores, search, captions, answers.

    msp-ds demo                            (once: makes the demo world and pre-trains; four minutes on two CPU cores)
    python examples/ask_a_model.py         (a quarter of a minute)

Answers need a model that was fine-tuned on questions. Train one, and name it:

    msp-ds shard --task vqa
    msp-ds finetune --task vqa --init runs/tps
    python examples/ask_a_model.py --answerer runs/vqa

Prints a few lines for each kind of question. Ask your own with --text and --question, in the words of the demo world
(msp-ds inspect shards/sentence/val shows some). The demo's model is right more often than chance, and often wrong.
"""

from __future__ import annotations

from pathlib import Path

import typer

import msp_ds
from msp_ds.terminal import run_tool


def ask_about_matches(checkpoint: Path, shards: Path, text: str) -> None:
    """Print what a pre-trained model says of texts and images that may or may not belong together."""
    model = msp_ds.load(checkpoint, shards=shards)
    image, other_image = model.image_ids[:2]
    print(f"{len(model.image_ids)} images, the first is {image}\n")

    # Captions of one image: of all texts of the set, those that fit it best.
    captions = model.captions(image, top=3)
    print(f"The captions that fit {image} best, and whether they were written about it:")
    for match in captions:
        print(f"  {match.probability:6.1%}  {match.text}  ({'its own' if match.is_own else 'of another image'})")

    # Scores of any texts with any images: float32 [texts, images], above 0 they match.
    texts = [captions[0].text, text]
    scores = model.score(texts, [image, other_image])
    print(f"\nScores with {image} and with {other_image}:")
    for (score, other_score), scored in zip(scores.tolist(), texts, strict=True):
        print(f"  {score:+6.2f}  {other_score:+6.2f}  {scored}")

    # Search: of all images of the set, those that fit a text best.
    print(f"\nThe images that fit {text!r} best:")
    for match in model.search(text, top=3):
        print(f"  {match.probability:6.1%}  {match.image_id}")


def ask_questions(checkpoint: Path, shards: Path, question: str) -> None:
    """Print the likeliest answers of a fine-tuned model to a question about three images."""
    model = msp_ds.load(checkpoint, shards=shards)
    print(f"\n{question}")
    for image in model.image_ids[:3]:
        answers = model.answer(question, image)  # every answer that the model knows, likeliest first
        likeliest = ", ".join(f"{answer} {chance:.0%}" for answer, chance in list(answers.items())[:3])
        print(f"  {image}: {likeliest}")


def main(
    checkpoint: Path = Path("runs/tps"),
    shards: Path = Path("shards"),
    answerer: Path | None = None,
    text: str = "A red bus near a tree",
    question: str = "How many trees are there?",
) -> None:
    """Ask a pre-trained model about texts and images, and a fine-tuned one a question."""
    ask_about_matches(checkpoint, shards / "sentence" / "val", text)
    if answerer is not None:
        ask_questions(answerer, shards / "vqa" / "val", question)


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
