"""Statistics and samples of a shard set, for a look at the data before a long run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from msp_ds.data.format.shards import ShardSet, read_record
from msp_ds.data.format.text import Label, load_labels
from msp_ds.records import RegionRecord

IMAGES_SAMPLED = 256
"""Images, evenly spaced over the set, whose features and labels are described; texts and regions are all counted."""
SAMPLES_SHOWN = 3
_PERCENTILES = (1, 10, 50, 90, 99)
_MOST_FREQUENT = 20
_NORM_BINS = 30


def inspect_set(shards: ShardSet, *, samples: int = SAMPLES_SHOWN) -> dict[str, Any]:
    """Return statistics of a set as plain JSON values, by group: set, texts, regions, labels, features, samples.

    Raises: ShardError when a sampled image is damaged.
    """
    index = shards.index
    rows = np.unique(np.linspace(0, index.num_images - 1, IMAGES_SAMPLED).astype(np.int64))
    shown = rows[np.unique(np.linspace(0, len(rows) - 1, samples).astype(np.int64))]
    records = [read_record(shards, int(row))[0] for row in rows]
    objects, attributes = _labels_of(shards)
    return {
        "set": {
            "path": str(shards.path),
            "stage": index.stage,
            "split": index.split,
            "images": index.num_images,
            "pairs": index.num_pairs,
            "shards": len(index.shards),
            "bytes": sum(shard.bytes for shard in index.shards),
            "extractor": index.extractor,
            "detector": index.detector.describe() if index.detector else None,
            "preset": index.preset,
            "vocabulary": index.vocab_size,
            "with_labels": index.has_labels,
            "with_hard_negatives": shards.hard_negatives is not None,
            "skipped_rows": "; ".join(f"{row.source} row {row.row}: {row.reason}" for row in index.skipped) or None,
        },
        "texts": _describe_texts(shards),
        "regions": {
            "per_image": _spread(shards.region_counts),
            "per_image_histogram": _counted(shards.region_counts),
        },
        "labels": {
            "images_sampled": len(records),
            "objects": _describe_labels([record.object_ids for record in records], objects),
            "attributes": _describe_labels([record.attribute_ids for record in records], attributes),
        },
        "features": {"read_as": ", ".join(index.feature_types) or None, **_describe_features(records)},
        "samples": [
            describe_image(*read_record(shards, int(row)), objects=objects, attributes=attributes) for row in shown
        ],
    }


def _describe_texts(shards: ShardSet) -> dict[str, Any]:
    """Describe the texts; lengths are in pieces, [CLS] and [SEP] included."""
    lengths = np.diff(shards.pairs.offsets)
    return {
        "counts": shards.index.texts,
        "texts_per_image": shards.index.num_pairs / shards.index.num_images,
        "truncated_ratio": shards.index.texts.get("truncated", 0) / shards.index.num_pairs,
        "longest_allowed": shards.index.max_tokens,
        "pieces": _spread(lengths),
        "pieces_histogram": _counted(lengths),
    }


def _counted(values: np.ndarray) -> dict[int, int]:
    """Return value -> count for non-negative integers."""
    return {value: int(count) for value, count in enumerate(np.bincount(values)) if count}


def _describe_labels(ids: Sequence[np.ndarray], labels: Sequence[Label]) -> dict[str, Any]:
    flat = np.concatenate(ids)
    counts = np.bincount(flat[flat >= 0], minlength=len(labels))
    frequent = np.argsort(-counts, kind="stable")[:_MOST_FREQUENT]
    return {
        "labelled_ratio": float((flat >= 0).mean()),
        "seen": int((counts > 0).sum()),
        "of": len(labels),
        "most_frequent": {labels[number][0]: int(counts[number]) for number in frequent if counts[number]},
    }


def _describe_features(records: Sequence[RegionRecord]) -> dict[str, Any]:
    """Describe the features. Figures that differ from those of a checkpoint's data mean another extractor."""
    features = np.concatenate([record.features for record in records]).astype(np.float32)
    norms = np.linalg.norm(features, axis=1)
    counts, edges = np.histogram(norms, bins=_NORM_BINS)
    return {
        "images_sampled": len(records),
        "width": features.shape[1],
        "mean": float(features.mean()),
        "deviation": float(features.std()),
        "largest": float(features.max()),
        "smallest": float(features.min()),
        "zero_ratio": float((features == 0).mean()),
        "norm": _spread(norms),
        "norm_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    percentiles = {f"p{percent}": float(np.percentile(values, percent)) for percent in _PERCENTILES}
    return {"mean": float(values.mean()), "min": float(values.min()), **percentiles, "max": float(values.max())}


def samples_of(shards: ShardSet, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Return the images in some rows with boxes, labels and texts as JSON values. Raises: ShardError for damage."""
    objects, attributes = _labels_of(shards)
    return [describe_image(*read_record(shards, row), objects=objects, attributes=attributes) for row in rows]


def _labels_of(shards: ShardSet) -> tuple[tuple[Label, ...], ...]:
    """Return the object labels and the attribute labels."""
    paths = (shards.objects_path, shards.attributes_path)
    return tuple(load_labels(path, may_be_empty=True) for path in paths)


def describe_image(
    record: RegionRecord, texts: Sequence[str], *, objects: Sequence[Label], attributes: Sequence[Label]
) -> dict[str, Any]:
    """Return an image with boxes, x0 y0 x1 y1 in pixels, and texts; a region without a label gets an empty one."""
    return {
        "image_id": record.image_id,
        "source": record.source,
        "height": record.height,
        "width": record.width,
        "regions": len(record.features),
        "boxes": record.boxes.tolist(),
        "labels": [objects[number][0] if number >= 0 else "" for number in record.object_ids.tolist()],
        "scores": record.object_scores.tolist(),
        "attributes": [attributes[number][0] if number >= 0 else "" for number in record.attribute_ids.tolist()],
        "texts": list(texts),
    }
