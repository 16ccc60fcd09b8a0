"""What is worth saying about freshly written shard sets beside their own lines."""

from __future__ import annotations

from collections.abc import Sequence

from msp_ds.preparation.writing.shard_writer import SetReport

PAPER_PAIRS = {"token": 120_000, "phrase": 340_000, "sentence": 620_000}
"""Stage -> image-text pairs in the paper (section 4.1), rounded there to 0.01 M."""


def shard_notes(stage: str, reports: Sequence[SetReport]) -> list[str]:
    """Lines about the sets of a stage or benchmark together: pairs beside the paper's, and what was kept out."""
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
