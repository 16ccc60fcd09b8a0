"""The network of bottom-up attention: Faster R-CNN on a ResNet-101 C4 with an attribute head, of Visual Genome.

H, W: height and width of the resized picture; h, w: of the map, a 16th of it; N: RoIs; F: feature width; L: labels.
Modules have the names of py-bottom-up-attention's and Hugging Face's weights, so that those load strictly.
Sources: Anderson et al. 2018, section 3.1; peteanderson80/bottom-up-attention; airsplay/py-bottom-up-attention.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 16
"""Pixels of the resized picture from one cell of the map to the next."""
POOLED = 14
"""Cells of a RoI along each side."""
LEAST_SIDE = 3
"""Pixels of a resized picture's shorter side below which the stem leaves no cell."""
_ANCHOR_SIZES, _ANCHOR_RATIOS = (64, 128, 256, 512), (0.5, 1.0, 2.0)
"""Square root of an anchor's area in pixels; height by width."""


@dataclass(frozen=True, kw_only=True)
class VgSizes:
    """The sizes of a network; the defaults are those of the published weights."""

    width: int = 64
    """Channels of the stem; the feature width is 32 times as much."""
    blocks: tuple[int, int, int, int] = (3, 4, 23, 3)
    """Of res2 to res5."""
    objects: int = 1600
    attributes: int = 400
    """Labels without the background."""


class ConvNorm(nn.Conv2d):
    """A convolution without bias, and its frozen batch normalisation."""

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, size, stride, size // 2 * dilation, dilation, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map."""
        normalised: Tensor = self.norm(super().forward(x))
        return normalised

    def fold(self) -> None:
        """Put the normalisation into weight and bias: it needs no pass over the map any more."""
        norm = self.norm
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            self.weight = nn.Parameter(self.weight * scale[:, None, None, None], requires_grad=False)
            self.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
            self.norm = nn.Identity()


class _Stem(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, width, 7, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        # Caffe's pooling: without padding; the last cells read what is there.
        return F.max_pool2d(self.conv1(image).relu_(), 3, 2, ceil_mode=True)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        # Unlike torchvision's, the stride is in the first convolution.
        self.conv1 = ConvNorm(inputs, width, 1, stride=stride)
        self.conv2 = ConvNorm(width, width, 3, dilation=dilation)
        self.conv3 = ConvNorm(width, 4 * width, 1)
        self.shortcut = ConvNorm(inputs, 4 * width, 1, stride=stride) if inputs != 4 * width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(self.conv1(x).relu_()).relu_()
        summed: Tensor = self.conv3(inner).add_(self.shortcut(x))
        return summed.relu_()


def _stage(inputs: int, width: int, blocks: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = _Bottleneck(inputs, width, stride=stride, dilation=dilation)
    return nn.Sequential(
        first, *(_Bottleneck(4 * width, width, stride=1, dilation=dilation) for _ in range(blocks - 1))
    )


def default_anchors() -> Tensor:
    """Return the anchors of the cell at (0, 0), float32 [12, 4], x0 y0 x1 y1 in pixels, by size and then by ratio."""
    sides = [(size / ratio**0.5, size * ratio**0.5) for size in _ANCHOR_SIZES for ratio in _ANCHOR_RATIOS]
    return torch.tensor(sides).repeat(1, 2) * torch.tensor([-0.5, -0.5, 0.5, 0.5])


class _RpnHead(nn.Module):
    def __init__(self, width: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16 * width, 8 * width, 3, padding=1)
        self.objectness_logits = nn.Conv2d(8 * width, anchors, 1)
        self.anchor_deltas = nn.Conv2d(8 * width, 4 * anchors, 1)


class _ProposalGenerator(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        anchors = default_anchors()
        self.rpn_head = _RpnHead(width, len(anchors))
        self.anchor_generator = nn.ModuleDict({"cell_anchors": nn.ParameterList([anchors])})

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [h w 12], deltas [h w 12, 4] and boxes [h w 12, 4] of all anchors, cell by cell, float32."""
        _, height, width = feature_map.shape
        hidden = self.rpn_head.conv(feature_map[None].float()).relu_()
        logits = self.rpn_head.objectness_logits(hidden)[0].permute(1, 2, 0).flatten()
        deltas = self.rpn_head.anchor_deltas(hidden)[0].view(-1, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        y, x = (STRIDE * torch.arange(side, device=logits.device) for side in (height, width))
        x, y = x.expand(height, -1), y[:, None].expand(-1, width)
        anchors = torch.stack((x, y, x, y), 2)[:, :, None] + self.get_parameter("anchor_generator.cell_anchors.0")
        return logits, deltas, anchors.view(-1, 4)


class _BoxPredictor(nn.Module):
    def __init__(self, sizes: VgSizes) -> None:
        super().__init__()
        width = sizes.width
        self.cls_score = nn.Linear(32 * width, sizes.objects + 1)
        self.bbox_pred = nn.Linear(32 * width, sizes.objects * 4)
        self.cls_embedding = nn.Embedding(sizes.objects + 1, 4 * width)
        self.fc_attr = nn.Linear(36 * width, 8 * width)
        self.attr_score = nn.Linear(8 * width, sizes.attributes + 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of objects [N, L + 1], the deltas of their boxes [N, L, 4] with weights 10, 10, 5, 5, and
        the logits of attributes; the background is the last. features: float32 [N, F].
        """
        objects = self.cls_score(features)
        # The background is among the labels here, as in training.
        both = torch.cat((features, self.cls_embedding(objects.argmax(1))), dim=1)
        attributes = self.attr_score(self.fc_attr(both).relu_())
        return objects, self.bbox_pred(features).unflatten(1, (-1, 4)), attributes


class _RoiHeads(nn.Module):
    def __init__(self, sizes: VgSizes) -> None:
        super().__init__()
        # Unlike torchvision's, it keeps the resolution.
        self.res5 = _stage(16 * sizes.width, 8 * sizes.width, sizes.blocks[3], dilation=2)
        self.box_predictor = _BoxPredictor(sizes)


class VgNetwork(nn.Module):
    """The network in parts, called one after the other: feature_map, proposal_generator, roi_features,
    roi_heads.box_predictor.
    """

    def __init__(self, sizes: VgSizes) -> None:
        super().__init__()
        width, blocks = sizes.width, sizes.blocks
        stages = {
            "stem": _Stem(width),
            "res2": _stage(width, width, blocks[0]),
            "res3": _stage(4 * width, 2 * width, blocks[1], stride=2),
            "res4": _stage(8 * width, 4 * width, blocks[2], stride=2),
        }
        self.backbone = nn.Sequential(OrderedDict(stages))
        self.proposal_generator = _ProposalGenerator(width)
        self.roi_heads = _RoiHeads(sizes)
        self.feature_width = 32 * width
        self.eval().requires_grad_(False)

    def prepare(self, device: torch.device, precision: torch.dtype) -> None:
        """Fold the normalisations, and move to a device; backbone and res5 compute in `precision`, the rest in fp32."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        self.to(device)
        self.backbone.to(precision)
        self.roi_heads.res5.to(precision)

    def feature_map(self, image: Tensor) -> Tensor:
        """Return the map, [16 width, h, w] in the backbone's precision.

        image: float32 [3, H, W]: blue, green and red of 0 to 255, less the means of training.
        """
        precision = next(self.backbone.parameters()).dtype
        found: Tensor = self.backbone(image[None].to(precision, memory_format=torch.channels_last))[0]
        return found

    def roi_features(self, pooled: Tensor) -> Tensor:
        """Return the features of RoIs, float32 [N, F], none below 0. pooled: [N, 16 width, POOLED, POOLED]."""
        found: Tensor = self.roi_heads.res5(pooled).float().mean((2, 3))
        return found
