"""Recipes: the raw files of shards and the settings of their preparation, from a TOML file or flags.

Paths are relative to the working directory. Lists of files may hold brace patterns: `features/{000..099}.tsv`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msp_ds.config import from_json, read_json
from msp_ds.data.format.faults import OnError
from msp_ds.data.format.path_patterns import expand_braces
from msp_ds.data.format.set_layout import ASKING_NAMES, SetName
from msp_ds.data.format.vocabulary import BERT_BASE_UNCASED
from msp_ds.demo_world import WORLD_VERSION, make_world
from msp_ds.errors import InputError
from msp_ds.number_checks import check_numbers
from msp_ds.preparation.sources.mentions import plain_text
from msp_ds.presets import PRESETS
from msp_ds.storage.small_files import parse_toml, read_small_text, reason

DEMO_RECIPE = Path("shards/demo.toml")
"""The recipe of the demo world, part of the project."""
FROM_CAPTIONS = "from-captions"
"""A value in `phrases`: cut noun phrases from the captions instead of reading a file."""

MAX_TOKENS: dict[SetName, int] = {
    "token": 64,
    "phrase": 32,
    "sentence": 20,
    "vqa": 20,
    "gqa": 20,
    "nlvr2": 20,
    "retrieval": 20,
}
"""Pieces of a text, [CLS] and [SEP] included: 36 labels take 45 to 55, sentences are cut at 20 as LXMERT's."""
_MOST_TOKENS = 512
"""Positions of the model."""


@dataclass(frozen=True, kw_only=True)
class WorldRecipe:
    """The demo world: synthetic data that need no download."""

    out: str
    """Its folder; written when it has no world.json."""
    images: int
    seed: int = 0
    feature_width: int = 2048

    def __post_init__(self) -> None:
        check_numbers(self)


def _expand_patterns(recipe: BenchmarkRecipe | Recipe) -> None:
    """Expand the brace patterns in every list of files."""
    for item in dataclasses.fields(recipe):
        value = getattr(recipe, item.name)
        if isinstance(value, tuple):
            object.__setattr__(recipe, item.name, expand_braces(value))


@dataclass(frozen=True, kw_only=True)
class BenchmarkRecipe:
    """The questions of a benchmark. Without `val_questions` the recipe's holdout divides the images of `questions`."""

    questions: tuple[str, ...] = ()
    """Training questions of VQA, GQA or NLVR2, official files or LXMERT's."""
    annotations: tuple[str, ...] = ()
    """VQA's official annotations, one file for each of `questions`."""
    val_questions: tuple[str, ...] = ()
    """Validation questions."""
    val_annotations: tuple[str, ...] = ()
    test_questions: tuple[str, ...] = ()
    """Test questions; their answers are not read."""
    answers: str = ""
    """The answer vocabulary, such as LXMERT's label2ans; without it it is built from the questions."""
    least_questions: int = 9
    """VQA: an answer is built in when it is the commonest one to so many questions (docs/evaluation.md)."""

    def __post_init__(self) -> None:
        check_numbers(self)
        _expand_patterns(self)
        if self.least_questions < 1:
            raise InputError(f"least_questions {self.least_questions} is not positive")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The sources and settings of the shards of all stages."""

    regions: tuple[str, ...] = ()
    """Region features: .tsv files, .npz files or folders; `vg:` in front for Visual Genome's numbers."""
    on_error: OnError = "fail"
    """Policy for damaged rows of regions: `fail`, or leave them out and list them."""
    objects_vocab: str = ""
    """Object labels, one a line; like the attribute labels, not needed where no file of regions has labels."""
    attributes_vocab: str = ""
    """Attribute labels, one a line."""
    captions: tuple[str, ...] = ()
    """Files of captions in any layout that docs/own-data.md lists; `#split+split` behind Karpathy's."""
    phrases: tuple[str, ...] = ()
    """Visual Genome's region descriptions, LXMERT's JSON, or the word from-captions."""
    exclude: tuple[str, ...] = ()
    """Images to exclude from all stages and splits: files that name them, or minival, karpathy-val, karpathy-test."""
    splits: tuple[str, ...] = ()
    """Files that define the splits in `exclude`: LXMERT's mscoco_minival.json, Karpathy's dataset_coco.json."""
    image_data: str | None = None
    """Visual Genome's image_data.json, the table of its COCO duplicates."""
    hard_negatives: str | None = None
    """Hard negatives for ITM_HS: an .npz with image_ids and neighbours."""
    vocab: str = BERT_BASE_UNCASED
    """A vocab.txt, bert-base-uncased from this machine, or trained on the recipe's texts."""
    holdout: int = 0
    """Images held out for validation, the same in all stages."""
    allow_missing: bool = False
    """Leave out texts whose image has no regions, instead of an error."""
    extractor: str = ""
    """A free description of the feature extractor, stored with the shards."""
    preset: str | None = None
    """The preset for models of these data."""
    max_tokens: dict[str, int] = field(default_factory=dict)
    """Stage -> pieces of a text; MAX_TOKENS applies to others."""
    images_per_shard: int = 1000
    """Images of a tar at most."""
    world: WorldRecipe | None = None
    benchmarks: dict[str, BenchmarkRecipe] = field(default_factory=dict)
    """vqa, gqa, nlvr2 -> questions; retrieval uses the captions."""

    def __post_init__(self) -> None:
        check_numbers(self)
        _expand_patterns(self)
        if self.images_per_shard < 1:
            raise InputError(f"images_per_shard {self.images_per_shard} is not positive")
        plain_text(self.extractor, where="extractor")
        if self.holdout < 0:
            raise InputError(f"holdout {self.holdout} is negative")
        if self.preset is not None and self.preset not in PRESETS:
            raise InputError(f"preset {self.preset!r} is not one of {', '.join(PRESETS)}")
        unknown = self.benchmarks.keys() - set(ASKING_NAMES)
        if unknown:
            raise InputError(
                f"benchmark {min(unknown)!r} has no questions; those with questions are {', '.join(ASKING_NAMES)}"
            )
        for stage, count in self.max_tokens.items():
            if stage not in MAX_TOKENS or not 3 <= count <= _MOST_TOKENS:
                raise InputError(
                    f"max_tokens {stage} = {count}: sets are {', '.join(MAX_TOKENS)}, tokens 3 to {_MOST_TOKENS}"
                )

    def max_tokens_of(self, stage: SetName) -> int:
        """Return the most pieces of a text of a stage or benchmark."""
        return self.max_tokens.get(stage, MAX_TOKENS[stage])


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file. Raises: InputError for a missing or broken file and for unknown keys."""
    try:
        value = parse_toml(read_small_text(path, what="a recipe in TOML"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); recipes are TOML files, see shards/") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid TOML: {reason(error)}") from None
    return from_json(Recipe, value, where=str(path))


def recipe_with(recipe: Recipe | None, flags: Mapping[str, Any]) -> Recipe:
    """Return a recipe, by default the empty one, with fields replaced by command-line flags.

    Raises: InputError for invalid values.
    """
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()
    }
    return dataclasses.replace(recipe or Recipe(), **changes)


def with_benchmark(recipe: Recipe, name: str, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with changed fields of a benchmark. Raises: InputError for invalid values."""
    changed = dataclasses.replace(recipe.benchmarks.get(name, BenchmarkRecipe()), **changes)
    return dataclasses.replace(recipe, benchmarks={**recipe.benchmarks, name: changed})


def ensure_world(world: WorldRecipe, *, advance: Callable[[int], None]) -> None:
    """Write the demo world of a recipe unless it exists. advance: called with the number of images written.

    Raises: InputError when its folder holds another world.
    """
    folder = Path(world.out)
    wanted = {"seed": world.seed, "images": world.images, "feature_width": world.feature_width}
    if not (folder / "world.json").is_file():
        make_world(folder, **wanted, advance=advance)
        return
    card = read_json(folder / "world.json", what="the card of a world")
    found = {name: card.get(name) for name in (*wanted, "version")} if isinstance(card, dict) else None
    if found != {**wanted, "version": WORLD_VERSION}:
        raise InputError(
            f"{folder} holds another world ({json.dumps(found)}) than the recipe's ({json.dumps(wanted)}); "
            "remove the folder or name a new one"
        )
