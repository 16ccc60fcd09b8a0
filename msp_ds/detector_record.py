"""What computed a set's region features: the record in files of regions, in the index of a set and in a run."""

import hashlib
import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, kw_only=True)
class DetectorRecord:
    """Names a detector with everything that changes its features. Features of unequal detectors do not mix."""

    kind: str
    """`vg`, `transformers`, `onnx`, `grid`, or the name of an entry point."""
    name: str
    """For people, such as the folder's name; it is not compared."""
    weights_sha256: str
    """Of the weight files, hexadecimal."""
    settings: dict[str, str] = field(default_factory=dict)
    """Selection, number of regions, input size, resizer, precision, features."""
    objects_sha256: str = ""
    """Of the object labels, one a line; empty where there are none."""
    attributes_sha256: str = ""
    """Of the attribute labels, likewise."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries at work; they are not compared."""

    @property
    def identity(self) -> str:
        """sha256 over all that is compared, hexadecimal: equal for detectors of equal features."""
        compared = [self.kind, self.weights_sha256, self.settings, self.objects_sha256, self.attributes_sha256]
        return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        """Return `vg frcnn-vg-finetuned (weights 3f2a91c0, precision fp32, selection caffe)`."""
        settings = ", ".join(f"{name} {value}" for name, value in sorted(self.settings.items()))
        return f"{self.kind} {self.name} (weights {self.weights_sha256[:8]}{settings and ', ' + settings})"

    def to_text(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def labels_sha256(labels: tuple[str, ...]) -> str:
    """Return the sha256 of labels as a file of one a line; empty for none."""
    return hashlib.sha256("".join(f"{label}\n" for label in labels).encode()).hexdigest() if labels else ""
