"""The texts that a recipe's files give together."""

from __future__ import annotations

from pathlib import Path

import pytest
from raw_files import RawFolder, captions_json, karpathy_json, write_json

from msp_ds.errors import InputError
from msp_ds.preparation.recipe import Recipe
from msp_ds.preparation.texts.stage_texts import TextFiles

COCO = frozenset({"coco-1", "coco-2", "coco-70"})


def test_captions_of_several_layouts_join(tmp_path: Path) -> None:
    files = (
        write_json(tmp_path / "captions.json", captions_json([(1, "A dog."), (1, "A dog.")])),
        write_json(tmp_path / "dataset_coco.json", karpathy_json([("restval", 1, ["A cat.", "A dog."])])),
        write_json(
            tmp_path / "mscoco_train.json", [{"img_id": "COCO_train2014_000000000002", "sentf": {"mscoco": ["x"]}}]
        ),
        write_json(tmp_path / "flickr30k_train2014.json", [{"img_path": "36979.jpg", "sentences": ["y"]}]),
    )
    texts = TextFiles(Recipe(captions=tuple(map(str, files))), image_ids=COCO)
    # A file's own repeats stay; what an earlier file said already is not said again.
    assert texts.captions == {"coco-1": ["A dog.", "A dog.", "A cat."], "coco-2": ["x"], "f30k-36979": ["y"]}
    assert texts.counts["captions_in_two_files"] == 1


def test_phrases_join_the_duplicate_where_there_is_one(tmp_path: Path) -> None:
    regions = [{"id": number, "regions": [{"phrase": f"dog {number}"}]} for number in (7, 8, 9)]
    lxmert = [
        {"img_id": "COCO_val2014_000000000070", "sentf": {"vg": ["dog 7", "a ball"]}},
        {"img_id": "8", "sentf": {"vg": ["a tail"]}},
    ]
    duplicates = [{"image_id": 7, "coco_id": 70}, {"image_id": 8, "coco_id": 80}, {"image_id": 9, "coco_id": 70}]
    recipe = Recipe(
        phrases=(
            str(write_json(tmp_path / "region_descriptions.json", regions)),
            str(write_json(tmp_path / "mscoco_minival.json", lxmert)),
        ),
        image_data=str(write_json(tmp_path / "image_data.json", duplicates)),
    )
    texts = TextFiles(recipe, image_ids=COCO)
    # The regions of COCO's 80 are not at hand, so its phrases stay with Visual Genome's 8.
    assert texts.phrases == {"coco-70": ["dog 7", "dog 9", "a ball"], "vg-8": ["dog 8", "a tail"]}
    assert texts.counts["phrases_in_two_files"] == 1


def test_the_same_number_in_two_corpora_is_two_images(tmp_path: Path) -> None:
    coco = write_json(tmp_path / "a.json", captions_json([(1, "A dog.")]))
    genome = write_json(tmp_path / "b.json", captions_json([(1, "A horse.")]))
    texts = TextFiles(Recipe(captions=(str(coco), f"vg:{genome}")), image_ids=COCO)
    assert texts.captions == {"coco-1": ["A dog."], "vg-1": ["A horse."]}


def test_a_file_named_twice_is_refused(raw: RawFolder) -> None:
    with pytest.raises(InputError, match=r"names a.json twice among its captions"):
        _ = TextFiles(Recipe(captions=("a.json", "a.json")), image_ids=COCO).captions
