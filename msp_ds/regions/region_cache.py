"""Regions of single pictures, computed once: `<cache>/<identity of the detector>/<sha256 of the picture>.npz`.

The files are archives of one image as preparation/region_features/region_npz.py reads them. A damaged one is computed
again; all may be deleted.
"""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from msp_ds.data.format.region_checks import LabelCounts, RegionRow, has_only_finite
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_npz import NpzRegions
from msp_ds.preparation.verifying.inspection import describe_image
from msp_ds.records import RegionRecord
from msp_ds.regions.detector import Detector
from msp_ds.regions.pictures import open_picture
from msp_ds.storage.atomic_files import write_atomically
from msp_ds.storage.checksums import sha256_of_file
from msp_ds.storage.small_files import reason


class RegionCache:
    """The regions of picture files by one detector."""

    def __init__(self, detector: Detector, *, folder: Path) -> None:
        self.detector = detector
        self._folder = folder.expanduser() / detector.record.identity
        self._labels = LabelCounts(objects=len(detector.objects), attributes=len(detector.attributes))

    def read(self, path: Path) -> RegionRecord:
        """Return a picture's regions as a shard set of this detector would hold them; its id is its path.

        Raises: InputError for what is not a readable picture or has no region, and for a read-only cache.
        """
        row = RegionRow(image_id=str(path), number=0, offset=0, length=0)
        try:
            kept = NpzRegions(self._folder / f"{sha256_of_file(path)}.npz", "coco")
            try:
                record = kept.read(row, self._labels).record
            except InputError:  # missing or damaged
                data = self._compute(path)
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomically(kept.path, data)
                record = kept.read(row, self._labels).record
        except OSError as error:
            fix = "name another --cache" if error.filename != str(path) else "name a picture"
            raise InputError(f"{error.filename} cannot be opened ({reason(error)}); {fix}") from None
        return dataclasses.replace(record, source=f"regions by {self.detector.record.describe()}")

    def describe(self, path: Path) -> dict[str, Any]:
        """Return a picture as preparation.verifying.inspection describes an image; `file` is its path."""
        objects, attributes = (
            [(label.partition(",")[0],) for label in labels]
            for labels in (self.detector.objects, self.detector.attributes)
        )
        return describe_image(self.read(path), (), objects=objects, attributes=attributes) | {"file": path}

    def _compute(self, path: Path) -> bytes:
        """The archive of a picture."""
        picture = open_picture(path)
        (found,) = self.detector.detect([picture])
        if not len(found.boxes):
            raise InputError(f"{path} has no region for {self.detector.record.describe()}; take another picture")
        if not has_only_finite(found.features):
            raise InputError(f"{path}: {self.detector.record.describe()} computes features that are not finite of it")
        file, (height, width) = io.BytesIO(), picture.shape[:2]
        arrays: dict[str, Any] = {"boxes": found.boxes, "features": found.features}
        arrays |= {"objects_id": found.object_ids, "objects_conf": found.object_scores}
        arrays |= {"attrs_id": found.attribute_ids, "attrs_conf": found.attribute_scores}
        np.savez(file, height=height, width=width, detector=self.detector.record.to_text(), **arrays)
        return file.getvalue()
