"""LXMERT's pre-training JSON: mscoco_{train,nominival,minival}.json and vgnococo.json.

A list of {img_id, sentf: {category: [sentence]}, labelf}. The category `mscoco` holds captions; `vg` holds Visual
Genome's region phrases without their boxes, also for images with a COCO number. The other categories are questions.
"""

from collections.abc import Iterable, Iterator

from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, require_mapping
from msp_ds.preparation.sources.mentions import Mention, TextFormat, TextReference, squeezed_list

_NAME = "LXMERT's list of img_id and sentf"


def _mentions(items: Iterable[Item], file: TextReference) -> Iterator[Mention]:
    for item in items:
        image = require_mapping(item, "img_id", "sentf", what=_NAME)
        sentences = image["sentf"]
        if not isinstance(sentences, dict):
            raise InputError(f"{item.where}: sentf is not an object; it should be {_NAME}")
        # COCO's ids start with COCO_train2014_ or COCO_val2014_; plain numbers are Visual Genome's.
        image_id = file.canonical(image["img_id"], default="vg", where=item.where)
        captions, phrases = (
            squeezed_list(sentences.get(category, []), where=item.where) for category in ("mscoco", "vg")
        )
        yield Mention(image_id, captions=captions, phrases=phrases)


LXMERT = TextFormat(
    name=_NAME,
    recognises=lambda item: item.member == "" and "img_id" in item.value and "sentf" in item.value,
    mentions=_mentions,
)
