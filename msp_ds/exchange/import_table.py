"""A table and remarks on the tensors of an import."""

from collections import Counter
from collections.abc import Iterator, Mapping

from msp_ds.model.weights.conversion import ConversionReport
from msp_ds.model.weights.names import numbers_out
from msp_ds.terminal import Table
from msp_ds.training.checkpointing.weights_folder import WeightsCard


def import_table(card: WeightsCard) -> Table:
    """Return the number of tensors by part of the model, and the names of fresh and left-out ones."""
    table = Table(title=f"Weights from {card.source}")
    table.add_column("there", overflow="fold")
    table.add_column("here", overflow="fold")
    table.add_column("tensors", justify="right")
    report = card.report or ConversionReport()
    for (theirs, ours), count in _parts(report.taken).items():
        table.add_row(theirs, ours, str(count))
    table.add_section()
    for name in report.fresh:
        table.add_row("", name, "fresh", style="yellow")
    for head in report.absent_heads:
        table.add_row("", f"heads.{head}", "absent", style="yellow")
    table.add_section()
    for (name, why), count in _left_out(report.left_out).items():
        table.add_row(name, f"left out: {why}", str(count), style="dim")
    return table


def import_lines(card: WeightsCard) -> Iterator[str]:
    """Yield the remarks beside the table, a line each."""
    yield from (card.report.remarks if card.report else ())
    if card.vocabulary_sha256 is None:
        yield (
            f"the {card.model.vocab_size} word pieces of these weights are not known: name their vocab.txt with "
            "--vocab, or only their number will be compared"
        )
    if card.model.num_answers and card.answers_sha256 is None:
        yield (
            f"the {card.model.num_answers} answers of the answer head are not known: name them with --answers, or only "
            "their number will be compared"
        )


def _parts(taken: Mapping[str, str]) -> Counter[tuple[str, str]]:
    """(their part, our part) -> number of tensors: `bert.encoder.x_layers.{k}`, `backbone.layers.{k}` -> 210."""
    found: Counter[tuple[str, str]] = Counter()
    for ours, theirs in taken.items():
        here, there = numbers_out(ours)[0].split("."), numbers_out(theirs)[0].split(".")
        # A layer is one part; elsewhere a module is.
        depth_here = here.index("{k}") + 1 if "{k}" in here else len(here) - 1
        depth_there = there.index("{k}") + 1 if "{k}" in there else len(there) - 1
        found[".".join(there[:depth_there]), ".".join(here[:depth_here])] += 1
    return found


def _left_out(left_out: Mapping[str, str]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for name, why in left_out.items():
        parts = numbers_out(name)[0].split(".")
        part = ".".join(parts[: parts.index("{k}") + 1]) if "{k}" in parts else name
        found[part, why] += 1
    return found
