"""Tiny models of transformers with random weights, saved as folders that a detector is opened from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

LABELS = {0: "N/A", 1: "cat", 2: "dog", 3: "dog", 4: "stop sign,stopsign"}


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Return uint8 [height, width, 3]: coarse noise, so that boxes see different things."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((height // 8 + 1, width // 8 + 1, 1), dtype=np.uint8))[:height, :width]


def save(folder: Path, model: Any, processor: Any) -> Path:
    """Save a model with its image processor."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def spread(model: Any) -> Any:
    """Enlarge the weights of decoder and heads, so that the queries have different boxes, scores and labels."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(
                word in name for word in ("class", "bbox", "score_head", "query", "detection_tokens", "decoder.layers")
            ):
                weight.copy_(torch.randn(weight.shape) * (2 / weight.shape[-1]) ** 0.5 * (20 if "query" in name else 1))
    return model


def resnet() -> Any:
    """Return a ResNet of four stages, 8 to 64 channels, stride 32."""
    return transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )


def save_detr(folder: Path) -> Path:
    """Save a DETR of 20 queries, d 32, backbone 64 channels: softmax with "no object" last."""
    torch.manual_seed(0)
    config = transformers.DetrConfig(
        backbone_config=resnet(),
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=20,
        id2label=LABELS,
    )
    processor = transformers.DetrImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 192})
    return save(folder, spread(transformers.DetrForObjectDetection(config)), processor)


def save_rt_detr(folder: Path) -> Path:
    """Save an RT-DETR of 20 queries, d 32, last backbone map 64 channels: sigmoid."""
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[16, 32, 64],
        encoder_hidden_dim=32,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        decoder_layers=1,
        num_queries=20,
        id2label=LABELS,
    )
    processor = transformers.RTDetrImageProcessorPil(size={"height": 96, "width": 96})
    return save(folder, spread(transformers.RTDetrForObjectDetection(config)), processor)


def save_yolos(folder: Path) -> Path:
    """Save a YOLOS of 20 detection tokens behind its patches of 16 x 16, d 32: softmax."""
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[96, 128],
        num_detection_tokens=20,
        id2label=LABELS,
    )
    processor = transformers.YolosImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 192})
    return save(folder, spread(transformers.YolosForObjectDetection(config)), processor)
