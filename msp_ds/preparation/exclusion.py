"""Images that are excluded from training by lists and named splits, under any of their ids."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msp_ds.data.format.image_ids import corpus_of, is_renumbered
from msp_ds.errors import InputError
from msp_ds.preparation.overlap import same_pictures, unchecked_duplicates
from msp_ds.preparation.recipe import Recipe
from msp_ds.preparation.sources.karpathy import KARPATHY
from msp_ds.preparation.sources.mentions import parse_reference
from msp_ds.preparation.sources.text_files import read_image_ids, recognise
from msp_ds.preparation.sources.visual_genome import CocoDuplicates


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """The excluded images of a recipe, and the table that finds them under other ids."""

    named: frozenset[str]
    """Canonical ids in the lists."""
    duplicates: CocoDuplicates

    def among(self, image_ids: frozenset[str]) -> frozenset[str]:
        """Return the excluded ones of `image_ids`."""
        return same_pictures(image_ids, self.named, self.duplicates)

    def check(self, image_ids: frozenset[str]) -> None:
        """Raises: InputError unless duplicates among `image_ids` can be identified and some image is left."""
        if unchecked := unchecked_duplicates(image_ids, self.named, self.duplicates):
            raise InputError(f"--exclude cannot be kept: {unchecked}")
        if self.among(image_ids) == image_ids:
            raise InputError(f"--exclude leaves nothing of {len(image_ids)} images with regions; name smaller lists")

    def counts(self, image_ids: frozenset[str]) -> dict[str, int]:
        """Return counts of excluded images for reports and the index; empty when nothing is to be excluded."""
        if not self.named:
            return {}
        left_out = self.among(image_ids)
        return {
            "images_excluded": len(left_out),
            "images_excluded_as_duplicates": len(left_out - self.named),
            "images_unchecked_of_gqa_test": _renumbered_facing_coco(image_ids, self.named)
            + _renumbered_facing_coco(self.named, image_ids),
        }


def _renumbered_facing_coco(one: frozenset[str], other: frozenset[str]) -> int:
    """Return how many images of one set have numbers of GQA's own while the other set has COCO images."""
    return sum(map(is_renumbered, one)) if any(corpus_of(image_id) == "coco" for image_id in other) else 0


def read_exclusion(recipe: Recipe, *, duplicates: CocoDuplicates) -> Exclusion:
    """Read the images of the recipe's `exclude`.

    Raises: InputError for a file that cannot be read, and for a split whose defining file is not among `splits`.
    """
    named = [_split_ids(name, recipe) if name in _SPLITS else read_image_ids(name) for name in recipe.exclude]
    return Exclusion(named=frozenset[str]().union(*named), duplicates=duplicates)


@dataclass(frozen=True, kw_only=True)
class _Split:
    """A named split and the file that defines it."""

    defined_by: str
    is_in: Callable[[str], bool]
    """Whether a file defines the split."""
    ending: str = ""
    """Suffix that selects the split in the file."""


def _is_minival(written: str) -> bool:
    """Whether a file is minival, by its name: LXMERT's files for training and validation have one layout."""
    name = Path(written).name
    return "minival" in name and "nominival" not in name


def _is_karpathy(written: str) -> bool:
    """Whether a file holds Karpathy's splits, by its content."""
    return recognise(parse_reference(written), what="a split file") is KARPATHY


_DATASET_COCO = "dataset_coco.json of Karpathy's caption data sets (caption_datasets.zip)"
_SPLITS: dict[str, _Split] = {
    "minival": _Split(
        defined_by="mscoco_minival.json of LXMERT's pre-training data (data/lxmert/mscoco_minival.json)",
        is_in=_is_minival,
    ),
    "karpathy-val": _Split(defined_by=_DATASET_COCO, is_in=_is_karpathy, ending="#val"),
    "karpathy-test": _Split(defined_by=_DATASET_COCO, is_in=_is_karpathy, ending="#test"),
}


def require_split_files(recipe: Recipe) -> None:
    """Require the file that defines each split in `exclude`. Raises: InputError naming a split and its file."""
    for name in recipe.exclude:
        if name in _SPLITS:
            _split_files(name, recipe)


def _split_files(name: str, recipe: Recipe) -> list[str]:
    split = _SPLITS[name]
    files = [written for written in recipe.splits if split.is_in(written)]
    if not files:
        raise InputError(f"{split.defined_by} defines which images are {name}; give that file with --splits FILE")
    return files


def _split_ids(name: str, recipe: Recipe) -> frozenset[str]:
    ending = _SPLITS[name].ending
    return frozenset[str]().union(*(read_image_ids(written + ending) for written in _split_files(name, recipe)))
