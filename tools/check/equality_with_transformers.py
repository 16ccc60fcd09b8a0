"""How far our states, logits and gradients are from those of transformers' LXMERT, on the same weights.

    python tools/check/equality_with_transformers.py                  (paper size: half a minute of one core, 4.7 GB)
    python tools/check/equality_with_transformers.py --preset tiny    (seconds)

Prints the largest absolute difference of each state over batches of several shapes, with padded texts and regions, in
fp32 and without dropout; exits with 1 if a state is off by more than 1e-5 or a gradient by more than 1e-4. Weights go
out by `export --to hf` and come in by `import --from hf-lxmert`, so those are measured too. The two models differ in
what is documented: our positions are given as 0, 1, 2, ..., our visual [CLS] is one region more for transformers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import cast

import torch
import transformers
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertForPreTraining

from msp_ds.config import ModelConfig
from msp_ds.exchange.weights_export import ExportPlan, export_weights, hf_config
from msp_ds.exchange.weights_import import ImportPlan, import_weights
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import HEADS, RegionHead, build_heads
from msp_ds.model.weights.conversion import DECODER, tied, to_theirs
from msp_ds.model.weights.forms import HF_LXMERT_FORM
from msp_ds.presets import get_preset
from msp_ds.records import Batch, Encoded, no_corruption
from msp_ds.terminal import run_tool
from msp_ds.training.checkpointing.weights_folder import (
    StoredWeights,
    WeightsCard,
    read_folder_weights,
    write_card,
    write_weights,
)

STATE_LIMIT, GRADIENT_LIMIT = 1e-5, 1e-4
SCALE = "(the largest gradient)"
SHAPES = ((1, 4, 1), (2, 7, 5), (4, 20, 36), (3, 12, 10))
"""Pairs, tokens, regions."""


class Ours(nn.Module):
    """A backbone and all heads, as a checkpoint holds them."""

    def __init__(self, config: ModelConfig, *, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = Backbone(config)
        self.heads = build_heads(HEADS, config, self.backbone)
        with torch.no_grad():  # biases and LayerNorms too: a name mixed up among zeros and ones would not show
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter) * config.init_std)

    def weights(self) -> dict[str, Tensor]:
        """By our names, the tied decoder left out."""
        return {name: tensor.detach().clone() for name, tensor in self.state_dict().items() if name != DECODER}


def a_batch(config: ModelConfig, shape: tuple[int, int, int], *, seed: int) -> Batch:
    """Random pairs; all but the first have shorter texts and fewer regions. Positions are 0, 1, 2, ..."""
    (pairs, tokens, regions), maker = shape, torch.Generator().manual_seed(seed)

    def lengths(most: int) -> Tensor:
        return torch.cat((torch.tensor([most]), torch.randint(1, most + 1, (pairs - 1,), generator=maker)))

    token_mask = torch.arange(tokens) < lengths(tokens)[:, None]
    region_mask = torch.arange(regions) < lengths(regions)[:, None]
    nothing = torch.zeros(pairs, regions)
    return Batch(
        keys=torch.arange(pairs),
        token_ids=torch.randint(1, config.vocab_size, (pairs, tokens), generator=maker) * token_mask,
        word_positions=torch.arange(tokens).expand(pairs, tokens),
        token_mask=token_mask,
        features=torch.rand(pairs, regions, config.feature_width, generator=maker) * region_mask[..., None],
        boxes=torch.rand(pairs, regions, 4, generator=maker).sort(-1).values * region_mask[..., None],
        region_mask=region_mask,
        object_ids=nothing.long(),
        object_scores=nothing,
        attribute_ids=nothing.long(),
        attribute_scores=nothing,
        random_features=torch.zeros(pairs, 1, config.feature_width),
        answer_ids=torch.empty(pairs, 0, dtype=torch.int64),
        answer_scores=torch.empty(pairs, 0),
        corruption=no_corruption(token_mask.long(), region_mask),
    )


def their_inputs(batch: Batch, cls_feature: Tensor | None) -> dict[str, Tensor]:
    """A batch as transformers reads it, our visual [CLS] as the first region."""
    features, boxes, mask = batch.features, batch.boxes, batch.region_mask.float()
    if cls_feature is not None:
        pairs = len(features)
        features = torch.cat((cls_feature.expand(pairs, 1, -1), features), dim=1)
        boxes = torch.cat((torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(pairs, 1, 4), boxes), dim=1)
        mask = torch.cat((torch.ones(pairs, 1), mask), dim=1)
    return {
        "input_ids": batch.token_ids,
        "attention_mask": batch.token_mask.float(),
        "visual_feats": features,
        "visual_pos": boxes,
        "visual_attention_mask": mask,
    }


def our_outputs(ours: Ours, batch: Batch) -> dict[str, Tensor]:
    """States and logits by name; those of the regions without the gate, which transformers has not."""
    encoded: Encoded = ours.backbone(batch)
    head = cast(RegionHead, ours.heads["region"])
    regions = head.transform(encoded.regions)
    return {
        "text states": encoded.text,
        "region states": encoded.regions,
        "pooled text": torch.tanh(ours.backbone.text_pooler(encoded.text[:, 0])),
        "token logits": ours.heads["token"](encoded.text),
        "object logits": head.objects(regions),
        "attribute logits": head.attributes(regions),
        "features": head.features(regions),
        "match logits of the pair": ours.heads["match"](encoded.pair),
    }


def their_outputs(theirs: LxmertForPreTraining, batch: Batch, ours: Ours) -> dict[str, Tensor]:
    """States and logits of transformers' model by the same names."""
    cls_feature = ours.backbone.regions.cls_feature if ours.backbone.config.visual_cls else None
    states = theirs.lxmert(**their_inputs(batch, cls_feature))
    first, pair = 0 if cls_feature is None else 1, states.pooled_output
    if cls_feature is not None:
        pair = pair * torch.tanh(ours.backbone.region_pooler(states.vision_output[:, 0]))
    regions = states.vision_output[:, first:]
    seen, (tokens, matches) = theirs.obj_predict_head(regions), theirs.cls(states.language_output, pair)
    return {
        "text states": states.language_output,
        "region states": regions,
        "pooled text": states.pooled_output,
        "token logits": tokens,
        "object logits": seen["obj"],
        "attribute logits": seen["attr"],
        "features": seen["feat"],
        "match logits of the pair": matches,
    }


def gradients(outputs: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """By parameter: of the outputs in fixed random directions, mean over positions as losses are, and of their size."""
    maker = torch.Generator().manual_seed(5)
    weighed = (value * torch.randn(value.shape, generator=maker) for value in outputs.values())
    total = torch.stack([value.sum(-1).mean() / value.shape[-1] ** 0.5 for value in weighed]).sum()
    module.zero_grad()
    total.backward()
    return {name: part.grad for name, part in module.named_parameters() if part.grad is not None}


def compare(ours: Ours, theirs: LxmertForPreTraining) -> dict[str, float]:
    """The largest absolute difference of each state, and of the gradient of each weight, over all shapes."""
    worst: dict[str, float] = {}
    for seed, shape in enumerate(SHAPES):
        batch = a_batch(ours.backbone.config, shape, seed=seed)
        mine, other = our_outputs(ours, batch), their_outputs(theirs, batch, ours)
        found = {name: _distance(mine[name], other[name]) for name in mine}
        my_slopes, other_slopes = gradients(mine, ours), gradients(other, theirs)
        my_slopes["backbone.text.type_vector"] = torch.zeros_like(ours.backbone.text.type_vector)  # a buffer
        my_slopes["backbone.text.position.weight"][0] = 0  # padding's row for transformers, which never trains it
        renamed, _ = to_theirs(my_slopes, HF_LXMERT_FORM, cls_id=None, where="gradients")
        for name, slope in renamed.items():
            name = name.replace("bert.", "lxmert.", 1) if name.startswith("bert.") else name
            found["gradients"] = max(found.get("gradients", 0.0), _distance(slope, other_slopes[name]))
            found[SCALE] = max(found.get(SCALE, 0.0), float(slope.abs().max()))
        worst = {name: max(worst.get(name, 0.0), value) for name, value in found.items()}
    return worst


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


def exported(ours: Ours, folder: Path) -> LxmertForPreTraining:
    """Our weights in transformers, by way of `export --to hf`."""
    card = WeightsCard(model=ours.backbone.config, vocabulary_sha256=None, source="random")
    (folder / "weights").mkdir(parents=True)
    stored = StoredWeights(card=card, weights=ours.weights(), vocabulary=None)
    write_weights(folder / "weights", stored)
    write_card(folder / "weights", stored)
    export_weights(ExportPlan(source=folder / "weights", form="hf", out=folder / "hf"))
    return LxmertForPreTraining.from_pretrained(folder / "hf").eval()


def imported(config: ModelConfig, folder: Path) -> tuple[Ours, LxmertForPreTraining]:
    """transformers' own random weights, and ours by way of `import --from hf-lxmert`."""
    ours = Ours(config, seed=1).eval()
    names, _ = to_theirs(ours.weights(), HF_LXMERT_FORM, cls_id=None, where="random")
    torch.manual_seed(2)
    theirs = LxmertForPreTraining(LxmertConfig(**hf_config(config, names))).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * config.init_std)
    theirs.save_pretrained(folder / "theirs")
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    settings = [f"{name}={json.dumps(value)}" for name, value in fields.items() if name not in DECIDED_BY_DATA]
    plan = ImportPlan(source=folder / "theirs", form="hf-lxmert", out=folder / "ours", settings=settings)
    import_weights(plan)
    missing, unknown = ours.load_state_dict(tied(read_folder_weights(folder / "ours")), strict=False)
    absent = sorted({name.split(".")[1] for name in missing})
    if unknown or absent != ["topic"]:
        raise ValueError(f"imported weights lack {missing} and have {unknown}")
    return ours, theirs


DECIDED_BY_DATA = ("vocab_size", "feature_width", "num_objects", "num_attributes", "num_answers")


def measure(config: ModelConfig) -> dict[str, dict[str, float]]:
    """`random` and `imported` weights -> state -> the largest difference."""
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(config, seed=0).eval()
        return {
            "random": compare(ours, exported(ours, Path(folder) / "out")),
            "imported": compare(*imported(config, Path(folder) / "in")),
        }


def within_limits(found: dict[str, float]) -> bool:
    """Whether states agree to 1e-5 and gradients to 1e-4."""
    limits = {"gradients": GRADIENT_LIMIT, SCALE: float("inf")}
    return all(value < limits.get(name, STATE_LIMIT) for name, value in found.items())


def main() -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="paper")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = measure(get_preset(arguments.preset).model)
    print(f"preset {arguments.preset}, fp32; torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"shapes (pairs, tokens, regions): {', '.join(map(str, SHAPES))}\n")
    print(f"| {'largest absolute difference':<28} |" + "".join(f" {name + ' weights':>16} |" for name in found))
    print(f"|{'-' * 30}|" + "".join(f"{'-' * 17}:|" for _ in found))
    for name in found["random"]:
        print(f"| {name:<28} |" + "".join(f" {values[name]:>16.2e} |" for values in found.values()))
    sys.exit(0 if all(map(within_limits, found.values())) else 1)


if __name__ == "__main__":
    run_tool(main)
