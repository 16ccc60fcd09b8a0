"""Small weights in other people's forms, made by transformers' own models or from names written down; and in ours."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertForPreTraining, LxmertConfig, LxmertForPreTraining

from msp_ds.config import ModelConfig
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import HEADS, build_heads
from msp_ds.model.weights.conversion import untied
from msp_ds.training.checkpointing.weights_folder import StoredWeights, WeightsCard, write_card, write_weights

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(35))]
CLS_ID = 2
MODEL = ModelConfig(
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    intermediate_size=96,
    max_positions=32,
    init_std=0.1,
    vocab_size=len(PIECES),
    feature_width=16,
    num_objects=7,
    num_attributes=5,
)
SETTINGS = [
    "hidden_size=64",
    "num_layers=2",
    "num_heads=2",
    "intermediate_size=96",
    "max_positions=32",
    "init_std=0.1",
]
"""What makes the paper's preset MODEL; what data decide comes from the weights."""
FLAGS = [word for setting in SETTINGS for word in ("--set", setting)]


def write_vocabulary(folder: Path) -> Path:
    """vocab.txt with the pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in PIECES))
    return path


def hf_lxmert(*, language: int = 0, region: int = 0, seed: int = 0) -> LxmertForPreTraining:
    """transformers' LXMERT of MODEL's size, every weight random, LayerNorms and biases too."""
    torch.manual_seed(seed)
    config = LxmertConfig(
        vocab_size=MODEL.vocab_size,
        hidden_size=64,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=32,
        l_layers=language,
        x_layers=2,
        r_layers=region,
        visual_feat_dim=16,
        num_object_labels=7,
        num_attr_labels=5,
        num_qa_labels=3,
        task_qa=True,
    )
    return shaken(LxmertForPreTraining(config).eval())


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """A model whose weights are all random: a mixed-up name among zeros and ones would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def lxmert(**layers: int) -> dict[str, Tensor]:
    """A state dict as LXMERT's own code saves it: Hugging Face's under the older prefix."""
    saved = hf_lxmert(**layers).state_dict()
    return {name.replace("lxmert.", "bert.", 1): tensor.clone() for name, tensor in saved.items()}


def lxmert_s() -> dict[str, Tensor]:
    """A state dict as the released LXMERT-S saves it: LXMERT's, with what it adds (docs/tasks.md, The model)."""
    maker = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=maker)

    saved = {name: tensor for name, tensor in lxmert().items() if not name.startswith("answer_head.")}
    return saved | {
        "bert.pooler_f.dense.weight": random(64, 64),
        "bert.pooler_f.dense.bias": random(64),
        "bert.word_embeddings.weight": random(40, 16),
        "cls.seq_relationship_new.weight": random(40, 64),
        "cls.seq_relationship_new.bias": random(40),
        "cls.LayerNorm.weight": random(40),
        "cls.LayerNorm.bias": random(40),
    }


def bert() -> BertForPreTraining:
    """transformers' BERT of MODEL's size with three layers and a next-sentence head."""
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=MODEL.vocab_size,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=32,
    )
    return shaken(BertForPreTraining(config).eval())


def a_stored_model(
    folder: Path, *, model: ModelConfig = MODEL, seed: int = 7, with_words: bool = True, **extra: Tensor
) -> Path:
    """A weights folder of random weights with all heads; keywords are further tensors, `__` for a dot."""
    torch.manual_seed(seed)
    backbone = Backbone(model)
    heads = build_heads(HEADS, model, backbone)
    shaken(torch.nn.ModuleList([backbone, heads]))
    weights = {f"backbone.{name}": tensor.detach() for name, tensor in backbone.state_dict().items()}
    weights |= {f"heads.{name}": tensor.detach() for name, tensor in heads.state_dict().items()}
    weights |= {name.replace("__", "."): tensor for name, tensor in extra.items()}
    vocabulary = write_vocabulary(folder / "words").read_bytes() if with_words else None
    card = WeightsCard(
        model=model,
        vocabulary_sha256=hashlib.sha256(vocabulary).hexdigest() if vocabulary else None,
        source="run made-up, 1-token/step-00000003",
    )
    path = folder / "weights"
    path.mkdir(parents=True)
    stored = StoredWeights(card=card, weights=untied(weights, where="made-up"), vocabulary=vocabulary)
    write_weights(path, stored)
    write_card(path, stored)
    return path
