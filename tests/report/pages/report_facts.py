"""Facts of a made-up set, as preparation.verifying.inspection returns them, small enough to see in a drawing."""

from __future__ import annotations

from typing import Any

SPREAD = {name: 3.0 for name in ("mean", "min", "p1", "p10", "p50", "p90", "p99", "max")}


def sample(**changes: Any) -> dict[str, Any]:
    """An image of 80 x 40 pixels: a sky above, a dog below, the dog's head."""
    made = {
        "image_id": "coco-7",
        "source": "regions.tsv row 3",
        "height": 40,
        "width": 80,
        "regions": 3,
        "boxes": [[0.0, 0.0, 80.0, 10.0], [10.0, 15.0, 50.0, 40.0], [10.0, 15.0, 20.0, 25.0]],
        "labels": ["sky", "dog", "head"],
        "scores": [0.9, 0.8, 0.7],
        "attributes": ["blue", "", "brown"],
        "texts": ["A dog & a <sky>.", "two"],
    }
    return {**made, **changes}


def facts(**changes: Any) -> dict[str, Any]:
    """A set of one such image."""
    labels = {"labelled_ratio": 0.75, "seen": 2, "of": 1600, "most_frequent": {"dog": 4, "<sky>": 1}}
    return {
        "set": {
            "path": "shards/<b>/train",
            "stage": "sentence",
            "split": "train",
            "images": 123287,
            "pairs": 616767,
            "shards": 124,
            "bytes": 18_400_000_000,
            "extractor": "bottom-up",
            "preset": None,
            "vocabulary": 30522,
            "with_labels": True,
            "with_hard_negatives": True,
            "skipped_rows": None,
        },
        "texts": {
            "counts": {"kept": 616767, "truncated": 14000},
            "texts_per_image": 5.0026,
            "truncated_ratio": 0.0227,
            "longest_allowed": 20,
            "pieces": SPREAD,
            "pieces_histogram": {8: 10, 9: 30, 12: 5},
        },
        "regions": {"per_image": SPREAD, "per_image_histogram": {36: 7}},
        "labels": {"images_sampled": 256, "objects": labels, "attributes": labels},
        "features": {
            "images_sampled": 256,
            "width": 2048,
            "mean": 0.61,
            "deviation": 1.3,
            "largest": 35.3,
            "smallest": 0.0,
            "zero_ratio": 0.34,
            "norm": SPREAD,
            "norm_histogram": {"edges": [1.0, 1.5, 2.0], "counts": [4, 8]},
        },
        "samples": [sample()],
        **changes,
    }
