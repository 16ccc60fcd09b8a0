"""A table of a model's parameters."""

import torch

from msp_ds.config import ModelConfig
from msp_ds.model.encoder import Backbone, count_parameters, paper_count
from msp_ds.model.heads import HEADS, build_heads
from msp_ds.terminal import Table


def parameter_table(name: str, config: ModelConfig) -> Table:
    """Return the parameters by part of the backbone and by head, and counted as in the paper (footnote 2)."""
    with torch.device("meta"):  # sizes only
        backbone = Backbone(config)
        heads = build_heads(HEADS, config, backbone)
    table = Table("part", title=f"Parameters of preset {name}")
    table.add_column("parameters", justify="right")
    parts = count_parameters(backbone)
    for part, count in parts.items():
        table.add_row(part, f"{count:,}")
    table.add_row("backbone, all together", f"{sum(parts.values()):,}", style="bold", end_section=True)
    tied = backbone.text.word.weight
    for head_name, head in heads.items():
        count = sum(parameter.numel() for parameter in head.parameters() if parameter is not tied)
        table.add_row(f"{head_name} head", f"{count:,}")
    table.add_section()
    table.add_row("as the paper counts: layers and region embeddings", f"{paper_count(backbone):,}", style="bold")
    return table
