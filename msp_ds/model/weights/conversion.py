"""Conversion between foreign and our names: pure functions of tensors by name, and a report on each tensor.

Weights are fp32 under the names of our state dict: `backbone.…`, `heads.<head>.…`. The token head's decoder is tied to
the word embeddings and therefore not among them; `tied` adds it for loading into a module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from msp_ds.errors import InputError
from msp_ds.model.weights.fine_tuned import named_as_ours
from msp_ds.model.weights.forms import Form, TableRow
from msp_ds.model.weights.names import normalised_name

WORDS = "backbone.text.word.weight"
DECODER = "heads.token.decoder.weight"
OWN = ("backbone.", "heads.")
"""Prefixes of our names. Foreign files keep tensors without a foreign name under our names."""
LXMERT_S_ONLY = ("backbone.regions.cls_feature", "backbone.region_pooler.")
"""Tensors of the backbone that a foreign file may keep under our names: the rest is a complete model without them."""
ANSWER_DECODER = "heads.answer.decoder.weight"
_DECODERS = tuple(f"heads.region.{what}_decoder." for what in ("object", "attribute", "feature"))
SIZES = {
    "vocab_size": (WORDS, 0),
    "feature_width": ("backbone.regions.feature.weight", 1),
    "num_objects": ("heads.region.object_decoder.weight", 0),
    "num_attributes": ("heads.region.attribute_decoder.weight", 0),
}
"""Field of ModelConfig that the data determine -> the tensor and axis whose size it is."""


@dataclass(frozen=True, kw_only=True)
class RenamedWeights:
    """Foreign weights under our names; shapes are not checked yet."""

    weights: dict[str, Tensor]
    came_from: dict[str, str]
    """Our name -> the foreign name."""
    left_out: dict[str, str]
    """Foreign name -> the reason."""


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What happened to every tensor."""

    taken: dict[str, str] = field(default_factory=dict)
    """Our name -> the foreign name."""
    fresh: tuple[str, ...] = ()
    """Tensors of the backbone and decoders of the region head that are initialised at random."""
    absent_heads: tuple[str, ...] = ()
    """Heads that the weights lack; they are not written and start fresh in training."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Foreign name -> the reason."""
    remarks: tuple[str, ...] = ()
    """What differs in meaning from the foreign model."""


def tied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the decoder of the token head, which is the table of word embeddings."""
    has_token_head = any(name.startswith("heads.token.") for name in weights)
    return dict(weights) | ({DECODER: weights[WORDS]} if has_token_head and WORDS in weights else {})


def untied(weights: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Remove the tied decoder; raises InputError if it differs from the table of word embeddings."""
    decoder, words = weights.get(DECODER), weights.get(WORDS)
    if decoder is not None and words is not None and not torch.equal(decoder, words):
        raise InputError(f"{where}: the token head's decoder is not the table of word embeddings, to which it is tied")
    return {name: tensor for name, tensor in weights.items() if name != DECODER}


def head_of(name: str) -> str | None:
    """Return the head that one of our tensors belongs to; None for the backbone."""
    kind, _, rest = name.partition(".")
    return rest.split(".")[0] if kind == "heads" else None


def sizes_of(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the fields of SIZES that the weights determine."""
    return {
        size: weights[name].shape[axis]
        for size, (name, axis) in SIZES.items()
        if name in weights and weights[name].ndim > axis
    }


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """How to read foreign tensors."""

    form: Form
    model: frozenset[str]
    """The names of all tensors of the model with all heads."""
    cls_id: int | None
    """Id of [CLS]; None where the vocabulary is unknown."""
    where: str
    """The file, for messages."""
    with_answers: bool = False
    """Whether the answers of LXMERT's pre-trained answer head are known, so that it is used."""
    drop_unknown: bool = False
    """Leave out tensors that are not part of the form instead of raising an error."""


def rename_weights(tensors: Mapping[str, Tensor], reading: ConversionOptions) -> RenamedWeights:
    """Return foreign tensors under our names, in fp32.

    Raises:
        InputError: A name is not part of the form or occurs twice, the model has no such tensor though it should, or a
            tensor holds numbers that are not finite.
    """
    weights: dict[str, Tensor] = {}
    came_from: dict[str, str] = {}
    left_out: dict[str, str] = {}
    names = _tidied(tensors, where=reading.where)
    heads = named_as_ours(names, tensors, with_answers=reading.with_answers) if reading.form.fine_tuned else {}
    for theirs, stored in sorted(names.items()):
        ours, reason = _place(heads.get(theirs, theirs), stored, reading)
        if ours is None:
            left_out[stored] = reason
            continue
        if ours in weights:
            raise InputError(f"{reading.where} holds {came_from[ours]} and {stored}, which are both {ours} here")
        row, where = reading.form.row_of_theirs(theirs), f"{reading.where}: {stored}"
        number = None if row is None else _row_number(row, reading)
        weights[ours] = _plain(tensors[stored] if number is None else _row(tensors[stored], number, where), where=where)
        came_from[ours] = stored if number is None else f"{stored}[{number}]"
        if number is not None:
            left_out[f"{stored}[the other rows]"] = "no text or image ever reads them"
    return RenamedWeights(weights=untied(weights, where=reading.where), came_from=came_from, left_out=left_out)


def _tidied(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, str]:
    """Normalised name -> the name in the file."""
    names: dict[str, str] = {}
    for stored in tensors:
        name = normalised_name(stored)
        if name in names:
            raise InputError(f"{where} holds {names[name]} and {stored}, which are two names of the same weights")
        names[name] = stored
    return names


def _place(theirs: str, stored: str, reading: ConversionOptions) -> tuple[str | None, str]:
    """Return our name of a foreign tensor, or None and the reason why it is left out."""
    row = reading.form.row_of_theirs(theirs)
    places = (row.ours,) if row else (theirs,) if theirs.startswith(OWN) else reading.form.table.to_ours(theirs)
    if not places:
        return None, _why_not(theirs, stored, reading)
    ours = next((place for place in places if place in reading.model), None)
    known_heads = {head_of(name) for name in reading.model}
    if ours is None and head_of(places[0]) not in known_heads:
        return places[0], ""  # a head of another task, carried along
    if ours is None and (head_of(places[0]) or places[0].startswith("backbone.layers.")):
        raise InputError(
            f"{reading.where} is of another model: it holds {stored}, for which this model has no {places[0]}; "
            "name the model that fits with --preset or --set model.NAME=VALUE"
        )
    return ours, "" if ours else "this model has no such part"


def _why_not(theirs: str, stored: str, reading: ConversionOptions) -> str:
    reason = next((why for begin, why in reading.form.not_ours.items() if theirs.startswith(begin)), None)
    if reason is None and not reading.drop_unknown:
        raise InputError(
            f"{reading.where} holds {stored}, which is no part of {reading.form.title}; check --from, "
            "or leave such tensors out with --drop-unknown"
        )
    return reason or "no part of this form of weights"


def _row_number(row: TableRow, reading: ConversionOptions) -> int:
    if row.row == "first":
        return 0
    if reading.cls_id is None:
        raise InputError(f"{reading.where}: the one row of {row.theirs} is that of [CLS]; give --vocab FILE")
    return reading.cls_id


def _row(table: Tensor, number: int, where: str) -> Tensor:
    if table.ndim != 2 or number >= len(table):
        raise InputError(f"{where} is {tuple(table.shape)}; a table with a row {number} was expected")
    if number and not table[number].any():
        raise InputError(f"{where}: row {number}, that of [CLS], is all zero; give the right vocabulary with --vocab")
    return table[number]


def _plain(tensor: Tensor, *, where: str) -> Tensor:
    if not tensor.is_floating_point():
        raise InputError(f"{where} holds {str(tensor.dtype).removeprefix('torch.')}, not plain weights")
    tensor = tensor.detach().to(torch.float32).clone()
    if not torch.isfinite(tensor).all():
        raise InputError(f"{where} holds numbers that are not finite")
    return tensor


def _is_absent_decoder(name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a tensor belongs to a decoder of the region head that the weights lack."""
    decoder = next((decoder for decoder in _DECODERS if name.startswith(decoder)), None)
    return decoder is not None and not any(other.startswith(decoder) for other in weights)


def check_fit(
    taken: RenamedWeights, reading: ConversionOptions, *, shapes: Mapping[str, tuple[int, ...]]
) -> ConversionReport:
    """Check that weights fit a model whose tensors have these shapes, and report on each tensor.

    A head must be complete or absent, except that the region head may lack decoders.

    Raises:
        InputError: Tensors are missing or have other shapes.
    """
    for name, tensor in taken.weights.items():
        if name in shapes and tuple(tensor.shape) != shapes[name]:
            raise InputError(
                f"{reading.where} is of another model: {taken.came_from[name]} is {tuple(tensor.shape)} there, "
                f"{name} {shapes[name]} here; name the model that fits with --preset or --set model.NAME=VALUE"
            )
    heads = {head_of(name) for name in taken.weights}
    fresh, missing = [], []
    for name in sorted(shapes.keys() - taken.weights.keys() - {DECODER}):
        head, theirs = head_of(name), _their_name(name, reading.form)
        if (head is None and theirs is None) or (head in heads and _is_absent_decoder(name, taken.weights)):
            fresh.append(name)
        elif head is None or head in heads:
            missing.append(theirs or name)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{reading.where} lacks {missing[0]}{more}, part of {reading.form.title}; check --from")
    return ConversionReport(
        taken={name: taken.came_from[name] for name in sorted(taken.weights)},
        fresh=tuple(fresh),
        absent_heads=tuple(sorted({head for name in shapes if (head := head_of(name)) and head not in heads})),
        left_out=taken.left_out,
    )


def _their_name(name: str, form: Form) -> str | None:
    row = form.row_of_ours(name)
    return row.theirs if row else form.table.to_theirs(name)


def to_theirs(
    weights: Mapping[str, Tensor], form: Form, *, cls_id: int | None, where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return our weights under foreign names, and under our names those without a foreign one.

    Tables of which only one row is used are zero elsewhere.

    Raises:
        InputError: The encoder has no foreign counterpart, or the row of [CLS] is needed and unknown.
    """
    theirs: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    num_pieces = len(weights[WORDS])
    for name, tensor in untied(weights, where=where).items():
        row, other = form.row_of_ours(name), form.table.to_theirs(name)
        if row is not None:
            reading = ConversionOptions(form=form, model=frozenset(), cls_id=cls_id, where=where)
            table = tensor.new_zeros(row.num_rows or num_pieces, len(tensor))
            table[_row_number(row, reading)] = tensor
            theirs[row.theirs] = table
        elif other is not None and tensor.numel():
            theirs[other] = tensor
        elif name.startswith("backbone.") and not name.startswith(LXMERT_S_ONLY):
            raise InputError(
                f"{where} has {name}, for which {form.title} has no place; export it with --to safetensors"
            )
        else:
            extra[name] = tensor
    return theirs, extra
