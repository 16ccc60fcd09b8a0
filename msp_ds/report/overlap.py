"""A report of the overlap of training and evaluation images, for the terminal."""

from rich.console import RenderableType

from msp_ds.preparation.overlap import Audit
from msp_ds.terminal import Table

IDS_SHOWN = 20


def overlap_report(audit: Audit) -> list[RenderableType]:
    """Return a table with a row for each pair of data sets, the first shared images, and the warnings."""
    shown: list[RenderableType] = [_table(audit)]
    lines = [*audit.overlap.by_id, *(f"{train} = {evaluation}" for train, evaluation in audit.overlap.by_duplicate)]
    shown += [f"  {line}" for line in lines[:IDS_SHOWN]]
    if len(lines) > IDS_SHOWN:
        shown.append(f"  and {len(lines) - IDS_SHOWN} more; --out FILE lists all")
    if audit.unchecked and lines:
        shown.append(f"warning: there may be more, since {audit.unchecked}")
    shown += [f"warning: {warning}" for warning in audit.warnings]
    return shown


def _table(audit: Audit) -> Table:
    table = Table("train", "images", "eval", "images", "both, by id", "both, as duplicates", title="Images in both")
    for column in (table.columns[1], *table.columns[3:]):
        column.justify = "right"
    for train in audit.train:
        for evaluation in audit.evaluation:
            pair = audit.pairs[train.name, evaluation.name]
            sizes = [train.name, str(len(train.image_ids)), evaluation.name, str(len(evaluation.image_ids))]
            duplicates = (
                f"{len(pair.by_duplicate)}, not all checked" if audit.unchecked else str(len(pair.by_duplicate))
            )
            table.add_row(*sizes, str(len(pair.by_id)), duplicates)
    if len(audit.pairs) > 1:
        overlap = audit.overlap
        table.add_row("all", "", "all", "", str(len(overlap.by_id)), str(len(overlap.by_duplicate)))
    return table
