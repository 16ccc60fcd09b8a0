"""A table of a model's parameters."""

from __future__ import annotations

import torch

from msp_ds.config import ModelConfig
from msp_ds.model.encoder import Backbone, count_parameters, paper_count
from msp_ds.model.heads import HEADS, build_heads
from msp_ds.terminal import Table


def parameter_table(name: str, config: ModelConfig) -> Table:
    """Parameters by part of the backbone and by head, with the paper's way of counting (its footnote 2)."""
    with torch.device("meta"):  # sizes only
        backbone = Backbone(config)
        heads = build_heads(HEADS, config, backbone)
    table = Table("part", title=f"Parameters of preset {name}", title_justify="left")
    table.add_column("parameters", justify="right")
    parts = count_parameters(backbone)
    for part, count in parts.items():
        table.add_row(part, f"{count:,}")
    table.add_row("backbone, all together", f"{sum(parts.values()):,}", style="bold", end_section=True)
    for head_name, head in heads.items():
        tied = backbone.text.word.weight
        count = sum(parameter.numel() for parameter in head.parameters() if parameter is not tied)
        table.add_row(f"{head_name} head", f"{count:,}")
    table.add_section()
    table.add_row("the paper's way: layers and region embeddings", f"{paper_count(backbone):,}", style="bold")
    return table
