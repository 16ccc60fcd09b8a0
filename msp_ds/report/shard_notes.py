"""Remarks on shard sets that were just written."""

from collections.abc import Sequence

from msp_ds.preparation.writing.shard_writer import SetReport
from msp_ds.report.fit import PAPER_PAIRS


def shard_notes(stage: str, reports: Sequence[SetReport]) -> list[str]:
    """Return remarks on the sets of a stage or benchmark: pairs beside the paper's, and excluded images."""
    pairs = sum(report.num_pairs for report in reports)
    beside = f", the paper has {PAPER_PAIRS[stage] / 1e6:.2f} M" if stage in PAPER_PAIRS else ""
    notes = [f"{stage}: {pairs} image-text pairs in all{beside}"]
    if reports[0].features:
        notes.append(f"features: {reports[0].features}")
    texts = reports[0].texts
    if "images_excluded" in texts:
        duplicates = texts["images_excluded_as_duplicates"]
        notes.append(
            f"excluded: {texts['images_excluded']} images, {duplicates} of them as duplicates under another id"
        )
    if unchecked := texts.get("images_unchecked_of_gqa_test"):
        notes.append(
            f"warning: {unchecked} images, here or among the excluded, have GQA's numbers n..., which are COCO images "
            "under unknown ids; they were compared with each other only"
        )
    return notes
