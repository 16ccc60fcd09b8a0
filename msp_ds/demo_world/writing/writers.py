"""The raw files of a world in their official layouts, written image by image."""

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from msp_ds.demo_world.detector import NUM_BOXES, Detections
from msp_ds.demo_world.language.caption_writer import Sentence
from msp_ds.demo_world.language.phrases import Phrase
from msp_ds.demo_world.scenes import Scene

_INFO = {
    "description": "A procedural world in the layout of COCO 2014 captions",
    "url": "",
    "version": "1.0",
    "year": 2014,
    "contributor": "msp-ds",
    "date_created": "2014/01/01",
}
_LICENSE = {"url": "", "id": 1, "name": "Apache License 2.0"}
COCO_NAME = "COCO_train2014_{:012d}"  # name of an image of the world, from its COCO id

_COCO_PRIME, _GENOME_PRIME = 999_983, 2_499_997
"""Ids are multiples modulo a prime: all different, scattered as the real ones are."""

MOST_IMAGES = _COCO_PRIME - 1  # number of images that have an id


def coco_id(number: int) -> int:
    """The COCO id of image `number`, 1 to 999 982."""
    return (number + 1) * 391_895 % _COCO_PRIME


def genome_id(number: int) -> int:
    """The Visual Genome id of image `number`."""
    return (number + 1) * 1_591_979 % _GENOME_PRIME


class JsonList:
    """The items of a long JSON list, or the members of an object, streamed into a file between a head and a tail."""

    def __init__(self, path: Path, *, head: str = "[", tail: str = "]\n") -> None:
        self._file = path.open("w", encoding="ascii", newline="\n")
        self._file.write(head)
        self._tail = tail
        self._separator = ""

    def add(self, item: Any, *, name: str | None = None) -> None:
        """Append one item, or the member `name` of an object."""
        member = "" if name is None else f"{json.dumps(name)}: "
        self._file.write(f"{self._separator}{member}{json.dumps(item)}")
        self._separator = ", "

    def append_file(self, path: Path) -> None:
        """Append the raw text of another file, constant in memory."""
        self._file.flush()
        with path.open("rb") as source:
            shutil.copyfileobj(source, self._file.buffer)

    def close(self) -> None:
        """Write the tail and sync the file to the disk."""
        self._file.write(self._tail)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close without a tail."""
        self._file.close()


class RawWriter:
    """A writer of one or more JSON files."""

    def __init__(self, *files: JsonList) -> None:
        self._files = files

    def close(self) -> None:
        """Complete the files."""
        for file in self._files:
            file.close()

    def abandon(self) -> None:
        """Close the files as they are."""
        for file in self._files:
            file.abandon()


class CaptionsWriter(RawWriter):
    """captions.json: info, licenses, images and the annotations, which wait in a file beside it."""

    def __init__(self, folder: Path) -> None:
        head = f'{{"info": {json.dumps(_INFO)}, "licenses": [{json.dumps(_LICENSE)}], "images": ['
        self._images = JsonList(folder / "captions.json", head=head, tail="")
        self._part = folder / "annotations.part"
        self._annotations = JsonList(self._part, head='], "annotations": [', tail="]}\n")
        super().__init__(self._images, self._annotations)

    def add(self, scene: Scene, captions: tuple[Sentence, ...]) -> None:
        """Append one image with its captions."""
        number = coco_id(scene.number)
        name = COCO_NAME.format(number) + ".jpg"
        self._images.add({"license": 1, "file_name": name, "height": scene.height, "width": scene.width, "id": number})
        for nth, caption in enumerate(captions):
            caption_id = scene.number * len(captions) + nth + 1
            self._annotations.add({"image_id": number, "id": caption_id, "caption": caption.text})

    def close(self) -> None:
        """Append the annotations to the images."""
        self._annotations.close()
        self._images.append_file(self._part)
        self._images.close()
        self._part.unlink()


class GenomeWriter(RawWriter):
    """region_descriptions.json and image_data.json of Visual Genome 1.2."""

    def __init__(self, folder: Path) -> None:
        self._regions = JsonList(folder / "region_descriptions.json")
        self._images = JsonList(folder / "image_data.json")
        super().__init__(self._regions, self._images)

    def add(self, scene: Scene, phrases: list[Phrase]) -> None:
        """Append one image with its phrases."""
        number = genome_id(scene.number)
        url = f"https://cs.stanford.edu/people/rak248/VG_100K/{number}.jpg"
        duplicate = {"coco_id": coco_id(scene.number), "flickr_id": None}
        size = {"width": scene.width, "height": scene.height}
        self._images.add({"image_id": number, "url": url, **size, **duplicate})
        regions = [_region(scene.number * 1000 + nth, number, phrase) for nth, phrase in enumerate(phrases)]
        self._regions.add({"id": number, "regions": regions})


def _region(region_id: int, image_id: int, phrase: Phrase) -> dict[str, int | str]:
    box = phrase.box
    return {
        "region_id": region_id,
        "width": round(box.width),
        "height": round(box.height),
        "image_id": image_id,
        "phrase": phrase.text,
        "y": round(box.y0),
        "x": round(box.x0),
    }


class RegionsWriter:
    """regions.tsv: LXMERT's ten columns, base64 of little-endian arrays, no header."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "regions.tsv").open("wb")

    def add(self, scene: Scene, detections: Detections, features: np.ndarray) -> None:
        """Append one row. features: float32 [36, F]."""
        found = detections
        columns = (found.object_ids, found.object_scores, found.attribute_ids, found.attribute_scores)
        row = (
            COCO_NAME.format(coco_id(scene.number)).encode(),
            b"%d" % scene.height,
            b"%d" % scene.width,
            *(base64.b64encode(column.tobytes()) for column in columns),
            b"%d" % NUM_BOXES,
            base64.b64encode(found.boxes.tobytes()),
            b"",
        )
        self._file.write(b"\t".join(row))
        # Not in the join: too large to copy.
        self._file.write(base64.b64encode(features.astype("<f4", copy=False).data))
        self._file.write(b"\n")

    def close(self) -> None:
        """Sync the file to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._file.close()
