"""The images in files of questions and statements: GQA's, NLVR2's, and LXMERT's of VQA, GQA and NLVR2.

VQA's official files are in COCO's layout.
"""

from collections.abc import Iterable, Iterator

from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, require_mapping
from msp_ds.preparation.sources.mentions import Mention, TextFormat, TextReference

_GQA = "GQA's questions by number, each with imageId"
_NLVR2 = "NLVR2's statements, each with an identifier"
_LXMERT = "LXMERT's list of questions, each with img_id and sent"


def _gqa_mentions(items: Iterable[Item], file: TextReference) -> Iterator[Mention]:
    for item in items:
        question = require_mapping(item, "imageId", what=_GQA)
        yield Mention(file.canonical(question["imageId"], default="vg", where=item.where))


def _nlvr2_mentions(items: Iterable[Item], file: TextReference) -> Iterator[Mention]:
    """Yield two images a statement, named by the pair, which several statements share."""
    for item in items:
        identifier = require_mapping(item, "identifier", what=_NLVR2)["identifier"]
        pair = str(identifier).rpartition("-")[0]
        if not pair:
            raise InputError(f"{item.where}: the identifier {identifier!r} should be split-set-pair-sentence")
        for side in (0, 1):
            yield Mention(file.canonical(f"{pair}-img{side}", default="nlvr2", where=item.where))


def _lxmert_mentions(items: Iterable[Item], file: TextReference) -> Iterator[Mention]:
    for item in items:
        question = require_mapping(item, "img_id", what=_LXMERT)
        yield Mention(file.canonical(question["img_id"], default="vg", where=item.where))


GQA = TextFormat(
    name=_GQA,
    recognises=lambda item: item.member != "" and "imageId" in item.value,
    mentions=_gqa_mentions,
)
NLVR2 = TextFormat(
    name=_NLVR2,
    recognises=lambda item: item.member == "" and "identifier" in item.value,
    mentions=_nlvr2_mentions,
)
LXMERT_QUESTIONS = TextFormat(
    name=_LXMERT,
    recognises=lambda item: item.member == "" and "img_id" in item.value and "sent" in item.value,
    mentions=_lxmert_mentions,
)
