"""How near a detector's regions come to recorded ones. M recorded and N own boxes of a picture."""

import copy

import numpy as np
import torch
from torch.nn import functional as F

from msp_ds.data.format.faults import Faults
from msp_ds.data.format.path_patterns import expand_braces
from msp_ds.data.format.region_checks import LabelCounts
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_files import RegionFile, list_region_files, scan_rows
from msp_ds.records import RegionRecord
from msp_ds.regions.detector import DetectedRegions
from msp_ds.regions.selection import overlaps

MATCHED = 0.9
"""Overlap beyond which an own box is a recorded one."""
COMPARED = ("boxes", f"IoU > {MATCHED}", "objects equal", "attributes equal", "cosine", "difference")
"""The columns of a comparison: the recorded boxes, those with an own one, of these the pairs of equal labels, and sums
over the pairs: of the cosines of features, and of the means of own minus recorded features."""
_ANY_LABEL = LabelCounts(objects=1 << 15, attributes=1 << 15)


class RecordedRows:
    """Regions in files that `msp-ds shard --regions` takes, by image."""

    def __init__(self, paths: str) -> None:
        files = list_region_files(expand_braces([paths]))
        scanned = zip(files, scan_rows(files, faults=Faults()), strict=True)
        self._rows = {row.image_id: (file, row) for file, rows in scanned for row in rows}
        self._open: RegionFile | None = None

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._rows

    def __getitem__(self, image_id: str) -> RegionRecord:
        """Return the regions of an image that is there. Raises: InputError for a damaged row."""
        file, row = self._rows[image_id]
        if self._open is None or self._open.path != file.path:
            self._open = copy.copy(file)  # it alone keeps an archive in memory
        return self._open.read(row, _ANY_LABEL).record


def compare_regions(own: DetectedRegions, recorded: RegionRecord) -> np.ndarray:
    """Compare the regions of a picture, as float64 [6], the columns COMPARED; those of several pictures may be added.

    A pair is a recorded and an own box, each the other's nearest. Raises: InputError for features of another width.
    """
    if own.features.shape[1] != recorded.features.shape[1]:
        widths = f"{recorded.features.shape[1]} wide, the detector's {own.features.shape[1]}"
        raise InputError(f"{recorded.source}: features are {widths}; --check takes regions of the same detector")
    count = len(recorded.boxes)
    near = overlaps(torch.from_numpy(np.concatenate((recorded.boxes, own.boxes))))[:count, count:]  # [M, N]
    theirs, ours = (near > MATCHED).nonzero(as_tuple=True)
    if len(ours):
        is_pair = (near.argmax(1)[theirs] == ours) & (near.argmax(0)[ours] == theirs)
        theirs, ours = theirs[is_pair], ours[is_pair]
    a, b = torch.from_numpy(own.features)[ours].double(), torch.from_numpy(recorded.features)[theirs].double()
    equal_objects = own.object_ids[ours] == recorded.object_ids[theirs]
    equal_attributes = own.attribute_ids[ours] == recorded.attribute_ids[theirs]
    sums = F.cosine_similarity(a, b).sum(), (a - b).mean(1).sum()
    return np.array([count, len(ours), equal_objects.sum(), equal_attributes.sum(), *sums], np.float64)
