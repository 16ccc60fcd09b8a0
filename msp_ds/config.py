"""Typed and checked configuration of the model, the optimiser, the tasks and a run.

The paper's numbers are the defaults, with their source. What the data determine (vocabulary size, feature width, label
counts) is filled in from the shards' index.
"""

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import InputError
from msp_ds.number_checks import check_number, check_numbers, size_fault
from msp_ds.storage.atomic_files import write_atomically
from msp_ds.storage.small_files import parse_json, read_small_text, reason

T = TypeVar("T")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of LXMERT-S (paper section 3, docs/tasks.md, The model) and of the models it can be exchanged for."""

    hidden_size: int = 768
    num_layers: int = 5
    """Layers in which text and regions meet: cross-modality layers, or layers over one sequence of both."""
    encoder: Literal["cross", "single-stream"] = "cross"
    """Two streams that attend to each other, as in LXMERT, or text and regions in one sequence, as in UNITER and
    VisualBERT."""
    language_layers: int = 0
    """Layers of the text alone below the cross-modality layers; LXMERT has 9."""
    region_layers: int = 0
    """Layers of the regions alone below the cross-modality layers; LXMERT has 5."""
    visual_cls: bool = True
    """A learned [CLS] before the regions: the pair is the product of both pooled [CLS] states. Without it the pair is
    the pooled [CLS] of the text, as in LXMERT, UNITER and VisualBERT."""
    positions: Literal["words", "pieces"] = "words"
    """What the text's positions count: whole words (docs/tasks.md, Word positions), or pieces from 0 as in BERT."""
    num_heads: int = 12
    intermediate_size: int = 3072
    dropout: float = 0.1
    """Probability of dropout on embeddings, attention weights and sub-layer outputs."""
    layer_norm_eps: float = 1e-12
    max_positions: int = 512
    init_std: float = 0.02
    region_gate: Literal["pair", "none"] = "pair"
    """Region head: the transformed state times the pair, as released, or alone, as in LXMERT. At a high learning rate
    the gate saturates the poolers within fifty steps, and topics and matching, which read them, learn nothing."""
    topic_head: Literal["gelu-layernorm", "plain"] = "gelu-layernorm"
    """LayerNorm(GELU(Linear)) as in the released code, or the paper's plain FC layer."""
    topic_prior: float = 0.5
    """Probability that a fresh topic head gives every word piece. At 1/2, as released, the head first learns that
    topics are rare; at a high learning rate it does so by saturating the poolers, which then stop learning."""
    vocab_size: int = 30522
    feature_width: int = 2048
    num_objects: int = 1600
    num_attributes: int = 400
    num_answers: int = 0
    """Answers that a benchmark chooses from; 0 in pre-training."""

    def __post_init__(self) -> None:
        check_numbers(self)
        fault = size_fault(vars(self))
        _check(not fault, fault)
        for name in ("language_layers", "region_layers"):
            count = getattr(self, name)
            one_sequence = "a single-stream encoder has no layers of one modality; set it to 0, or encoder to cross"
            _check(count == 0 or self.encoder == "cross", f"{name} is {count}, but {one_sequence}")
        _check(self.hidden_size % self.num_heads == 0, f"hidden_size {self.hidden_size} is not a multiple of num_heads")
        _check(0 < self.topic_prior < 1, f"topic_prior {self.topic_prior} is not between 0 and 1")
        _check(0 <= self.dropout < 1, f"dropout {self.dropout} is not in [0, 1)")
        for name in ("layer_norm_eps", "init_std"):
            value = getattr(self, name)
            _check(0 < value < math.inf, f"{name} {value} is not a positive number")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam as the paper uses it (section 4.4), with the schedule that LXMERT's code inherits from BERT.

    torch's AdamW replaces the released BertAdam: it corrects the moments for their start at zero, biases and LayerNorms
    do not decay, and the first step already has a learning rate above zero.
    """

    lr: float = 1e-5
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01
    """Decoupled weight decay, not applied to biases and LayerNorms."""
    warmup_ratio: float = 0.05
    """Fraction of a stage's steps in which the learning rate rises linearly; then it falls linearly to zero."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""

    def __post_init__(self) -> None:
        check_numbers(self)
        _check(self.lr > 0, f"lr {self.lr} is not positive")
        _check(0 <= self.warmup_ratio < 1, f"warmup_ratio {self.warmup_ratio} is not in [0, 1)")
        _check(self.clip_norm >= 0, f"clip_norm {self.clip_norm} is negative")
        _check(all(0 <= beta < 1 for beta in self.betas), f"betas {self.betas} are not in [0, 1)")
        _check(self.eps > 0 and self.weight_decay >= 0, "eps must be positive and weight_decay not negative")


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Where the paper leaves a choice: the defended reading first, its alternatives beside it (docs/tasks.md)."""

    token_probability: float = 0.15
    """MLM: probability that a piece is chosen for masking (section 4.4)."""
    mlm_unit: Literal["piece", "word"] = "piece"
    """MLM: draw each piece or each whole word."""
    region_probability: float = 0.15
    """MRFR and MOC: probability that a region is chosen for masking (section 4.4)."""
    mrfr_loss: Literal["smooth_l1", "mse"] = "smooth_l1"
    region_normaliser: Literal["expected", "asked"] = "expected"
    """MRFR and MOC: divide by the expected number of masked regions (the code's 1/0.15) or by the actual one."""
    moc_target: Literal["masked", "all"] = "masked"
    """MOC: targets are the masked regions, or all regions as in LXMERT."""
    moc_weight: Literal["confidence", "none"] = "confidence"
    """MOC: weight a region by the detector's confidence in its label, or all regions equally."""
    ifrs_probability: float = 0.05
    """IFRS: probability of a shuffle at each start of a triplet (section 3.1)."""
    ifrs_choice: Literal["scan", "stride3"] = "scan"
    """IFRS: triplets start anywhere (left to right, no overlap) or at every third region."""
    ifrs_loss: Literal["mse", "smooth_l1"] = "mse"
    """IFRS: the paper's L2 loss (eq. 1) or SmoothL1."""
    ifrs_boxes: Literal["stay", "move"] = "stay"
    """IFRS: only the feature moves, or its box too (which leaves nothing to learn)."""
    topic_words: Literal["raw", "content"] = "raw"
    """TITP, TITS: all word pieces can be topics, or all but punctuation, single characters and stop words."""
    topic_synonyms: Literal["first", "all"] = "first"
    """TITP, TITS: pieces of a label's first name or of all its names."""
    topic_attributes: bool = False
    """TITP: attribute labels count as topics too."""
    topic_min_score: float = 0.0
    """TITP, TITS: labels with a lower detector confidence are not topics."""
    itm_probability: float = 0.5
    """ITM_HS: probability that a pair's image is replaced (section 3.3)."""
    itm_negatives: Literal["hard", "random"] = "hard"
    """ITM_HS: the replacement comes from the hard negatives (Table 4's ITM_HS) or from all images (its ITM)."""
    itm_hard_probability: float = 1.0
    """ITM_HS: with `hard`, probability that a replacement is a hard negative; otherwise it is a random image."""
    itm_skip_nearest: int = 0
    """ITM_HS: leave out this many nearest hard negatives, which may fit the caption."""
    answer_loss: Literal["bce", "ce"] = "bce"
    """VQA, GQA: binary cross-entropy of each answer, or cross-entropy over all answers (the released --mceLoss)."""
    mismatch_losses: Literal["keep", "drop"] = "keep"
    """Whether pairs with a replaced image count in the losses of tasks other than matching."""
    mismatch_losses_of: dict[str, Literal["keep", "drop"]] = field(default_factory=dict)
    """Task -> mismatch_losses of this task. With `drop` and `mismatch_losses_of.tits=keep`, mismatched pairs train only
    topics, of which they have few."""
    heads: Literal["fresh", "carried"] = "fresh"
    """Whether a stage starts with the heads of the stage before it (or of --init) that have the same names."""
    heads_of: dict[str, Literal["fresh", "carried"]] = field(default_factory=dict)
    """Stage -> heads of this stage, as in `heads_of.sentence=carried`."""
    weights: dict[str, float] = field(default_factory=dict)
    """Task -> weight of its loss in the sum; 1 for those not named, as in the paper."""

    def __post_init__(self) -> None:
        check_numbers(self)
        _check(all(weight >= 0 for weight in self.weights.values()), f"a weight is negative in {self.weights}")
        _check(self.itm_skip_nearest >= 0, f"itm_skip_nearest {self.itm_skip_nearest} is negative")
        for name in (
            "token_probability",
            "region_probability",
            "ifrs_probability",
            "itm_probability",
            "itm_hard_probability",
            "topic_min_score",
        ):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"{name} {value} is not between 0 and 1")
        # MOC divides by the expected number of masked regions, whatever its targets.
        _check(
            self.region_probability > 0 or self.moc_target == "masked",
            "moc_target all needs a region_probability above 0",
        )


@dataclass(frozen=True, kw_only=True)
class StageSchedule:
    """Length and batch size of a stage's training."""

    epochs: int
    batch_size: int
    """Pairs in one optimiser step, over all ranks and accumulation steps."""

    def __post_init__(self) -> None:
        check_numbers(self)
        _check(self.epochs > 0 and self.batch_size > 0, f"epochs and batch size must be positive, got {self}")


LengthBuckets = Literal["auto", "on", "off"]
"""Whether batches hold texts of similar length; `auto` where that saves more than 5 % of the text slots."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines what a run computes; written to run.json and read again by --resume."""

    curriculum: str
    """Stages by initial in order, `tps`, or joined by + to train them together, `t+p+s`."""
    preset: str
    model: ModelConfig
    optim: OptimConfig
    schedule: dict[str, StageSchedule]
    tasks: TaskOptions = field(default_factory=TaskOptions)
    drop: tuple[str, ...] = ()
    """Tasks taken out of every stage, for ablations."""
    seed: int = 9595
    length_buckets: LengthBuckets = "auto"
    """Whether batches hold texts of similar length; the decision of `auto` is logged and stored in checkpoints."""
    shards: str
    """Folder that holds one shard set a stage."""
    vocabulary_sha256: str
    """Hash of the shards' vocab.txt: weights fit one vocabulary only."""
    answers_sha256: str | None = None
    """Hash of a benchmark's answers.json, whose lines are the answer head's outputs; None in pre-training."""
    detector: DetectorRecord | None = None
    """What computed the shards' region features; None where they do not say it."""
    init: str | None = None
    """Run or checkpoint whose backbone the first stage starts from."""
    max_pairs: int | None = None
    """Train on this many pairs of each stage, chosen by the seed, for quick studies; None for all."""
    max_steps: int | None = None
    """End every stage after this many optimiser steps; the learning-rate schedule is fitted to them."""

    def __post_init__(self) -> None:
        check_numbers(self)
        _check(self.max_pairs is None or self.max_pairs > 0, f"max_pairs {self.max_pairs} is not positive")
        _check(self.max_steps is None or self.max_steps > 0, f"max_steps {self.max_steps} is not positive")


def to_json(value: Any) -> Any:
    """Convert dataclasses, tuples and paths to plain JSON values; numbers that are not finite become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def from_json(kind: type[T], value: Any, *, where: str) -> T:
    """Return a value of type `kind` from plain JSON; unknown, missing and ill-typed keys raise an InputError."""
    return typing.cast(T, _from_json(kind, value, where))


def _from_json(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _dataclass_from_json(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = next(part for part in arguments if part is not type(None))
        return None if value is None else _from_json(inner, value, where)
    if origin in (tuple, dict):
        return _container_from_json(origin, arguments, value, where)
    if origin is Literal:
        _check(value in arguments, f"{where}: {value!r} is none of {', '.join(map(str, arguments))}")
        return value
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**1023 else math.inf
    if type(value) is not kind:
        raise InputError(f"{where}: expected {kind.__name__}, got {_short(value)}")
    check_number(where, value)
    return value


def _container_from_json(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if origin is tuple:
        _check_kind(value, list, f"{where}: expected a list")
        count = len(value) if arguments[-1] is Ellipsis else len(arguments)
        if len(value) != count:
            raise InputError(f"{where}: expected {count} values, got {_short(value)}")
        if set(map(type, value)) <= {arguments[0]}:  # the columns of a shard set's index: a million plain numbers
            return tuple(value)
        return tuple(_from_json(arguments[0], part, where) for part in value)
    _check_kind(value, dict, f"{where}: expected a table")
    return {key: _from_json(arguments[1], part, f"{where}.{key}") for key, part in value.items()}


def _check_kind(value: Any, kind: type, message: str) -> None:
    if not isinstance(value, kind):
        raise InputError(f"{message}, got {_short(value)}")


def _short(value: Any) -> str:
    """Return a value's repr, shortened: it may be a million numbers."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


_hints = lru_cache(typing.get_type_hints)  # cached: an index has a hundred values of one type


def _dataclass_from_json(kind: Any, value: Any, where: str) -> Any:
    _check_kind(value, dict, f"{where}: expected a table")
    hints = _hints(kind)
    unknown = sorted(set(value) - set(hints))
    _check(not unknown, f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(hints)}")
    needed = {
        item.name
        for item in dataclasses.fields(kind)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - set(value))
    _check(not missing, f"{where}: missing key {', '.join(missing)}")
    parts = {key: _from_json(hints[key], part, f"{where}.{key}") for key, part in value.items()}
    try:
        return kind(**parts)
    except InputError as error:  # from the value's own checks, which do not know where it is
        raise InputError(f"{where}: {error}") from None


def read_json(path: Path, *, what: str) -> Any:
    """Return the JSON value in a file; raises InputError, which says what the file should be, if it cannot be read."""
    try:
        return parse_json(read_small_text(path, what=what))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing; it should be {what}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} should be {what}, but is not valid JSON: {reason(error)}") from None


def write_json(path: Path, value: Any) -> None:
    """Write plain JSON atomically, indented and with a final newline."""
    write_atomically(path, (json.dumps(to_json(value), indent=2, ensure_ascii=False) + "\n").encode())
