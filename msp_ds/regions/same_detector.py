"""The detector for pictures that join known regions: the one that computed those."""

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import InputError
from msp_ds.regions.detector import Detector, DetectorOptions, Features, RegionPrecision, Selection

log = logging.getLogger(__name__)

_CHOICES = {"selection": get_args(Selection), "features": get_args(Features), "precision": get_args(RegionPrecision)}


def options_of(record: DetectorRecord | None, *, device: str) -> DetectorOptions:
    """Return the options that a detector of this record was opened with, so that its folder alone names it."""
    settings = record.settings if record else {}
    options: dict[str, Any] = {name: settings[name] for name, known in _CHOICES.items() if settings.get(name) in known}
    if settings.get("regions", "").isdecimal():
        options["regions"] = int(settings["regions"])
    return DetectorOptions(**options, device=device)


def open_detector(
    detector: str | PathLike[str] | Detector | None,
    *,
    known: Mapping[Path, DetectorRecord | None],
    feature_width: int,
    device: str,
) -> Detector:
    """Open the detector of a name, by default of the name on record, and compare it with all records.

    known: run, weights or shard set -> the detector of its regions, None where that is unknown.

    Raises: InputError when it is missing, another one or of another width.
    """
    where, record = next((entry for entry in known.items() if entry[1]), next(iter(known.items())))
    if detector is None and record is None:
        raise InputError(f"{where} does not say which detector its regions are from; name it: --detector FOLDER")
    if detector is None or isinstance(detector, (str, PathLike)):
        from msp_ds.regions.detectors.find import find_detector  # it may import transformers or onnxruntime

        try:
            detector = find_detector(
                str(detector or (record and record.name)), options=options_of(record, device=device)
            )
        except InputError as error:
            needed = f"; the regions of {where} are from {record.describe()}: --detector FOLDER" if record else ""
            raise InputError(f"{error}{needed}") from None
    for place, other in known.items():
        if other is not None and other.identity != detector.record.identity:
            wrong = f"not of {detector.record.describe()}; name the former with --detector"
            raise InputError(f"{place} has regions of {other.describe()}, {wrong}")
    if detector.feature_width != feature_width:
        found = f"{detector.record.describe()} gives {detector.feature_width}"
        raise InputError(f"{where} reads {feature_width} numbers a region, {found}; name its detector with --detector")
    if record is None:
        log.warning("%s does not say which detector its regions are from: only their width is compared", where)
    return detector
