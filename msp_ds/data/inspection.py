"""What a shard set holds, in figures and three samples: for eyes that want to see the data before a long run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from msp_ds.data.shards import ShardSet, read_record
from msp_ds.data.text import load_labels
from msp_ds.records import RegionRecord

IMAGES_SAMPLED = 256
"""Images that features and labels are described by, evenly spaced over the set; texts are counted in full."""
SAMPLES_SHOWN = 3
_SHARES = (1, 10, 50, 90, 99)


def inspect_set(shards: ShardSet) -> dict[str, Any]:
    """Facts of a set as plain JSON values, grouped: set, texts, labels, features, samples.

    Raises: ShardError when a sampled image is damaged.
    """
    index = shards.index
    rows = np.unique(np.linspace(0, index.num_images - 1, IMAGES_SAMPLED).astype(np.int64))
    records = [read_record(shards, int(row))[0] for row in rows]
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
            "preset": index.preset,
            "vocabulary": index.vocab_size,
            "with_look_alikes": shards.look_alikes is not None,
        },
        "texts": _describe_texts(shards),
        "labels": {
            "objects": _describe_labels([record.object_ids for record in records], index.num_objects),
            "attributes": _describe_labels([record.attribute_ids for record in records], index.num_attributes),
        },
        "features": _describe_features(records),
        "samples": [_sample(shards, int(row)) for row in rows[:: max(1, len(rows) // SAMPLES_SHOWN)][:SAMPLES_SHOWN]],
    }


def _describe_texts(shards: ShardSet) -> dict[str, Any]:
    """Lengths in pieces, [CLS] and [SEP] included."""
    lengths = np.diff(shards.pairs.offsets)
    histogram = np.bincount(lengths, minlength=shards.index.max_tokens + 1)
    return {
        "counts": shards.index.texts,
        "texts_per_image": shards.index.num_pairs / shards.index.num_images,
        "truncated_share": shards.index.texts.get("truncated", 0) / shards.index.num_pairs,
        "pieces": _spread(lengths),
        "pieces_histogram": {length: int(count) for length, count in enumerate(histogram) if count},
    }


def _describe_labels(ids: Sequence[np.ndarray], count: int) -> dict[str, Any]:
    flat = np.concatenate(ids)
    return {
        "labelled_share": float((flat >= 0).mean()),
        "seen": len(np.unique(flat[flat >= 0])),
        "of": count,
    }


def _describe_features(records: Sequence[RegionRecord]) -> dict[str, Any]:
    """Compare these with the figures of the features a checkpoint was trained on: another extractor shows here."""
    features = np.concatenate([record.features for record in records]).astype(np.float32)
    return {
        "images_sampled": len(records),
        "width": features.shape[1],
        "regions_per_image": _spread(np.array([len(record.features) for record in records])),
        "mean": float(features.mean()),
        "deviation": float(features.std()),
        "largest": float(features.max()),
        "smallest": float(features.min()),
        "zero_share": float((features == 0).mean()),
        "norm": _spread(np.linalg.norm(features, axis=1)),
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    """Mean, percentiles and ends."""
    percentiles = {f"p{share}": float(np.percentile(values, share)) for share in _SHARES}
    return {"mean": float(values.mean()), "min": float(values.min()), **percentiles, "max": float(values.max())}


def _sample(shards: ShardSet, row: int) -> dict[str, Any]:
    record, texts = read_record(shards, row)
    objects = load_labels(shards.objects_path, may_be_empty=True)
    return {
        "image_id": record.image_id,
        "source": record.source,
        "height": record.height,
        "width": record.width,
        "regions": len(record.features),
        "labels": [objects[number][0] if number >= 0 else "" for number in record.object_ids.tolist()],
        "texts": texts,
    }
