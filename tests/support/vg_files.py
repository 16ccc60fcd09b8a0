"""Weights of bottom-up attention's detector by a fixed recipe, in the published layouts, and folders of them."""

from __future__ import annotations

import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msp_ds.config import write_json
from msp_ds.regions.detectors.vg_network import VgNetwork, VgSizes
from msp_ds.regions.detectors.vg_weights import CARD, import_vg_detector, read_card

SMALL = VgSizes(width=2, blocks=(1, 2, 1, 2), objects=5, attributes=4)
HEADS, RPN = "roi_heads.box_predictor", "proposal_generator.rpn_head"
ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
_FACTORS = {
    f"{RPN}.anchor_deltas.weight": 0.004,
    f"{RPN}.objectness_logits.weight": 0.01,
    f"{HEADS}.bbox_pred.weight": 0.004,
    f"{HEADS}.cls_score.weight": 0.02,
    f"{HEADS}.attr_score.weight": 0.02,
    f"{HEADS}.cls_embedding.weight": 1.0,
}


def _numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    v = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    kind = name.rpartition(".")[2]
    if ".norm." in name:
        gain = 0.3 if "conv3.norm" in name else 1.0
        return {"weight": 0 * v + gain, "running_var": 1 + 0.25 * abs(v)}.get(kind, 0.1 * v)
    if kind == "bias":
        return 0 * v
    if name == "backbone.stem.conv1.weight":
        v = v / 64  # the recipe divides the input by it
    return v * np.float32(_FACTORS.get(name, np.sqrt(2 / np.prod(shape[1:]))))


def recipe_weights(sizes: VgSizes = SMALL) -> dict[str, Tensor]:
    """All 640 tensors of Hugging Face's file, or those of a smaller network."""
    weights = {}
    with torch.device("meta"):
        shapes = VgNetwork(sizes).state_dict()
    for name, tensor in shapes.items():
        if name == ANCHORS:
            rows = [(size / ratio**0.5, size * ratio**0.5) for size in (64, 128, 256, 512) for ratio in (0.5, 1, 2)]
            weights[name] = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in rows])
        elif tensor.dim():
            weights[name] = torch.from_numpy(np.asarray(_numbers(name, tuple(tensor.shape)), dtype=np.float32))
        else:
            weights[name] = torch.tensor(0)
    return weights


def background_first(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same detector as bottom-up-attention.pytorch stores it."""
    changed = dict(weights)
    for name in ("cls_score.weight", "cls_score.bias", "cls_embedding.weight", "attr_score.weight", "attr_score.bias"):
        changed[f"{HEADS}.{name}"] = weights[f"{HEADS}.{name}"].roll(1, 0)
    for kind in ("weight", "bias"):
        deltas = weights[f"{HEADS}.bbox_pred.{kind}"].clone()
        for row in range(len(deltas)):
            deltas[row] /= (10, 10, 5, 5)[row % 4]
        changed[f"{HEADS}.bbox_pred.{kind}"] = torch.cat((torch.full_like(deltas[:4], 9.0), deltas))
        logits = weights[f"{RPN}.objectness_logits.{kind}"]
        changed[f"{RPN}.objectness_logits.{kind}"] = torch.cat((-logits / 2, logits / 2))
    names = {"cls_embedding": "cls_embed", "fc_attr": "attr_linear1", "attr_score": "attr_linear2"}
    for ours, theirs in names.items():
        changed = {name.replace(f"{HEADS}.{ours}.", f"{HEADS}.{theirs}."): one for name, one in changed.items()}
    return changed


def write_pickle(path: Path, weights: dict[str, Tensor]) -> Path:
    """As detectron2 writes a converted model, without the counts of batches."""
    arrays = {name: tensor.numpy() for name, tensor in weights.items() if tensor.dim()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "recipe"}, protocol=2))
    return path


def write_labels(folder: Path, sizes: VgSizes = SMALL) -> dict[str, Path]:
    """The label files that an import takes."""
    for kind in ("objects", "attributes"):
        (folder / f"{kind}.txt").write_text("".join(f"{kind[:-1]} {k}\n" for k in range(getattr(sizes, kind))))
    return {kind: folder / f"{kind}.txt" for kind in ("objects", "attributes")}


def write_detector(folder: Path, source: Path, *, sizes: VgSizes = SMALL, **card: Any) -> Path:
    """Import a file into a folder; `card` changes what detector.json says."""
    labels = write_labels(folder.parent, sizes)
    import_vg_detector(source, **labels, out=folder, sizes=sizes)
    write_json(folder / CARD, replace(read_card(folder), **card))
    return folder
