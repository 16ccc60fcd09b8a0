"""Weights of bottom-up attention's detector: the published layouts, and the folder that `msp-ds import` makes of them.

The layouts are told by their keys:
- py-bottom-up-attention: its faster_rcnn_from_caffe_attr*.pkl, and Hugging Face's frcnn-vg-finetuned; ours, too.
- bottom-up-attention.pytorch, mode caffe: other names of the heads, and the background is the first label.
VinVL's is another network.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from msp_ds.config import from_json, read_json, write_json
from msp_ds.data.format.text import load_labels, read_label_bytes
from msp_ds.errors import InputError, writing
from msp_ds.model.weights.tensor_files import find_tensor_files, is_half_written, read_tensors, write_safetensors
from msp_ds.regions.detectors.vg_network import VgNetwork, VgSizes, default_anchors
from msp_ds.storage.atomic_files import followed, replacing_folder, require_own_files, write_durably
from msp_ds.storage.checksums import sha256_of_file
from msp_ds.storage.pickled_arrays import ARRAY_NAMES, as_array
from msp_ds.storage.restricted_pickle import PICKLE_ERRORS, load_pickle
from msp_ds.storage.small_files import open_regular

CARD, WEIGHTS, OBJECTS, ATTRIBUTES = "detector.json", "weights.safetensors", "objects_vocab.txt", "attributes_vocab.txt"
Layout = Literal["py-bottom-up-attention", "bottom-up-attention.pytorch"]
_FIX = (
    "name the R-101 C4 detector with attributes of py-bottom-up-attention, Hugging Face's frcnn-vg-finetuned or "
    "bottom-up-attention.pytorch in mode caffe"
)
_HEADS = "roi_heads.box_predictor"
_ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
_NOT_NEEDED = "num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class VgCard:
    """detector.json: where a folder's weights are from, and the input that they were trained on."""

    kind: Literal["vg"] = "vg"
    source: str
    """Name of the imported file."""
    source_sha256: str
    layout: Layout
    """Of the imported file."""
    sizes: VgSizes = field(default_factory=VgSizes)
    shorter_side: int = 600
    """Pixels of the resized picture,"""
    longer_side: int = 1000
    """unless the longer side would have more than so many."""
    proposals: int = 300
    """Of a picture at most."""
    resizer: Literal["Pillow bilinear"] = "Pillow bilinear"

    def __post_init__(self) -> None:
        if min(self.shorter_side, self.longer_side, self.proposals) < 1:
            raise InputError("shorter_side, longer_side and proposals must be positive")


def import_vg_detector(
    source: Path, *, objects: Path, attributes: Path, out: Path, overwrite: bool = False, sizes: VgSizes | None = None
) -> VgCard:
    """Write the detector in a file, or in Hugging Face's folder, to the folder `out`; return its card.

    objects, attributes: files of one label a line, without the background.

    Raises: InputError for other weights or another number of labels, before anything is written.
    """
    sizes = sizes or VgSizes()
    require_own_files(followed(out), is_own=_is_own, what="an imported detector", fix="name another --out")
    if (out / CARD).exists() and not overwrite:
        raise InputError(f"{out} holds a detector already; name another --out, or replace it with --overwrite")
    file, *others = [source] if source.suffix == ".pkl" else find_tensor_files(source)
    if others:
        raise InputError(f"{source} has its weights in {len(others) + 1} files; {_FIX}")
    layout, tensors = to_our_layout(_read_pickle(file) if file.suffix == ".pkl" else read_tensors(file), file, sizes)
    read_labels(objects, sizes.objects, of=file)
    read_labels(attributes, sizes.attributes, of=file)
    card = VgCard(source=file.name, source_sha256=sha256_of_file(file), layout=layout, sizes=sizes)
    folder = followed(out)
    prepared = folder.with_name(f".{folder.name}.writing")
    require_own_files(prepared, is_own=_is_own, what="an import that was stopped", fix="move it")
    with writing(out, fix="name another --out"):
        prepared.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder, prepared):
            write_safetensors(prepared / WEIGHTS, tensors)
            write_durably(prepared / OBJECTS, read_label_bytes(objects))
            write_durably(prepared / ATTRIBUTES, read_label_bytes(attributes))
            write_json(prepared / CARD, card)
    return card


def _is_own(name: str) -> bool:
    return name in (CARD, WEIGHTS, OBJECTS, ATTRIBUTES) or is_half_written(name)


def read_labels(path: Path, count: int, *, of: Path) -> tuple[str, ...]:
    """Return the labels in a file, synonyms behind commas. Raises: InputError unless they are as many as `of` has."""
    labels = tuple(",".join(label) for label in load_labels(path))
    if len(labels) != count:
        raise InputError(f"{path} lists {len(labels)} labels, {of} has {count}; name the list that it was trained with")
    return labels


def read_card(folder: Path) -> VgCard:
    """Return the card of a detector folder. Raises: InputError for another one."""
    what = "the card of a detector that msp-ds import --from vg-detector wrote"
    return from_json(VgCard, read_json(folder / CARD, what=what), where=str(folder / CARD))


def to_our_layout(tensors: dict[str, Tensor], where: Path, sizes: VgSizes) -> tuple[Layout, dict[str, Tensor]]:
    """Return the layout of tensors, and all tensors of VgNetwork, float32, under its names.

    Raises: InputError for weights of another network, with the first name that does not fit.
    """
    tensors = {name: tensor.float() for name, tensor in tensors.items() if not name.endswith(_NOT_NEEDED)}
    layout: Layout = "py-bottom-up-attention"
    if f"{_HEADS}.cls_embed.weight" in tensors:
        layout = "bottom-up-attention.pytorch"
        tensors = dict(_converted(name, tensor, where) for name, tensor in tensors.items())
    tensors.setdefault(_ANCHORS, default_anchors() if layout == "py-bottom-up-attention" else _caffe_anchors())
    with torch.device("meta"):
        needed = VgNetwork(sizes).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in needed.items() if not name.endswith(_NOT_NEEDED)}
    for name in sorted(shapes.keys() ^ tensors.keys()):
        raise InputError(f"{where} {'has' if name in tensors else 'lacks'} the tensor {name}; {_FIX}")
    for name, shape in shapes.items():
        if (found := tuple(tensors[name].shape)) != shape:
            raise InputError(f"{where}: {name} has the shape {found} instead of {shape}; {_FIX}")
    return layout, tensors


def _converted(name: str, tensor: Tensor, where: Path) -> tuple[str, Tensor]:
    """Return a tensor of bottom-up-attention.pytorch with its name and order of labels in py-bottom-up-attention."""
    for theirs, ours, change in _CHANGES:
        if name.startswith(f"{theirs}."):
            try:
                return name.replace(theirs, ours), change(tensor)
            except (IndexError, RuntimeError):
                raise InputError(f"{where}: {name} has the shape {tuple(tensor.shape)}; {_FIX}") from None
    return name, tensor


def _background_last(tensor: Tensor) -> Tensor:
    return torch.cat((tensor[1:], tensor[:1]))


def _of_our_deltas(tensor: Tensor) -> Tensor:
    """Leave out the background's, and multiply by what ours are divided by, which is 1 there."""
    weights = torch.tensor([10.0, 10.0, 5.0, 5.0]).view(4, *(1,) * (tensor.ndim - 1))
    return (tensor.view(-1, 4, *tensor.shape[1:])[1:] * weights).flatten(0, 1)


def _logit_of_pairs(tensor: Tensor) -> Tensor:
    """Return object less background: the softmax over the pair is the sigmoid of that."""
    half = len(tensor) // 2
    return tensor[half:] - tensor[:half]


_RPN = "proposal_generator.rpn_head.objectness_logits"
_CHANGES: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    (_RPN, _RPN, _logit_of_pairs),
    (f"{_HEADS}.cls_score", f"{_HEADS}.cls_score", _background_last),
    (f"{_HEADS}.bbox_pred", f"{_HEADS}.bbox_pred", _of_our_deltas),
    (f"{_HEADS}.cls_embed", f"{_HEADS}.cls_embedding", _background_last),
    (f"{_HEADS}.attr_linear1", f"{_HEADS}.fc_attr", Tensor.clone),
    (f"{_HEADS}.attr_linear2", f"{_HEADS}.attr_score", _background_last),
)
"""Module of bottom-up-attention.pytorch, of py-bottom-up-attention, what makes the second's tensors of the first's."""


def _caffe_anchors() -> Tensor:
    """Return Caffe's anchors, float32 [12, 4]: of whole pixels, by ratio and then by size, centred on 7.5."""
    sides = torch.tensor([[side * w, side * h] for w, h in ((23, 12), (16, 16), (11, 22)) for side in (4, 8, 16, 32)])
    return torch.cat((7.5 - (sides - 1) / 2, 7.5 + (sides - 1) / 2), dim=1)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Return the arrays of detectron2's pickle, {"model": {name: array}}, without running anything in it."""
    try:
        with open_regular(path, what="a detector's weights", even_empty=True) as file:
            saved = load_pickle(file, allowed=ARRAY_NAMES, encoding="latin1")["model"]
        return {str(name): torch.from_numpy(as_array(value).astype("float32")) for name, value in saved.items()}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {_FIX}") from None
    except PICKLE_ERRORS as error:
        raise InputError(
            f"{path} is a damaged or foreign pickle ({str(error) or type(error).__name__}); {_FIX}"
        ) from None
