"""The grid of cells over a vision backbone: tiny ones with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_detectors import picture, save, transformers

from msp_ds.errors import InputError
from msp_ds.regions.detector import DetectorOptions
from msp_ds.regions.detectors.grid import GridDetector

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def _backbone(folder: Path, name: str, *, patch: int = 8) -> Path:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**TINY, "image_size": 96, "patch_size": patch}
    crop = {"size": {"shortest_edge": 110}, "crop_size": {"height": 96, "width": 96}}
    if name == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**sizes))
        return save(folder, model, transformers.ViTImageProcessorPil(size={"height": 96, "width": 96}))
    if name == "dinov2":
        model = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**sizes))
        return save(folder, model, transformers.BitImageProcessorPil(**crop))
    text = {**TINY, "vocab_size": 50}
    config = transformers.CLIPConfig(text_config=text, vision_config=sizes, projection_dim=16)
    return save(folder, transformers.CLIPModel(config), transformers.CLIPImageProcessorPil(**crop))


def _open(folder: Path, **options: Any) -> GridDetector:
    return GridDetector(str(folder), options=DetectorOptions(**options))


def _without_neighbours(detector: GridDetector) -> None:
    """Switch the layers off: a patch then knows its own pixels and position alone."""
    for name, weight in detector._model.named_parameters():
        if "embeddings" not in name and "position" not in name and "norm" not in name:
            torch.nn.init.zeros_(weight)
        if "position" in name:
            torch.nn.init.zeros_(weight)


@pytest.mark.parametrize("name", ["vit", "clip", "dinov2"])
def test_a_bright_cell_changes_the_feature_of_that_cell_alone(tmp_path: Path, name: str) -> None:
    detector = _open(_backbone(tmp_path / "model", name))
    _without_neighbours(detector)
    image = np.full((60, 120, 3), 20, dtype=np.uint8)
    (before,) = detector.detect([image])
    image[40:50, 60:80] = 230  # row 4, column 3 of 6 x 6
    (after,) = detector.detect([image])
    change = np.abs(before.features.astype(float) - after.features).sum(1)
    assert change.argmax() == 4 * 6 + 3
    assert (change[[0, 5, 12, 18, 24, 35]] < 1e-2).all()  # the resizer blurs the cell's border, no more


def test_the_cells_cover_the_picture_row_by_row_without_labels(tmp_path: Path) -> None:
    detector = _open(_backbone(tmp_path / "model", "vit"))
    (regions,) = detector.detect([picture(60, 120)])
    assert (len(regions.boxes), detector.objects, detector.attributes) == (36, (), ())
    assert regions.boxes[0].tolist() == [0, 0, 20, 10]
    assert regions.boxes[7].tolist() == [20, 10, 40, 20]
    assert regions.boxes[35].tolist() == [100, 50, 120, 60]
    assert set(regions.object_ids) == set(regions.attribute_ids) == {-1}
    assert not regions.object_scores.any()


def test_a_cell_is_the_mean_of_its_patches(tmp_path: Path) -> None:
    folder = _backbone(tmp_path / "model", "dinov2")  # 12 x 12 patches behind [CLS] and four registers
    image = picture(96, 96)
    (regions,) = _open(folder).detect([image])
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        states = model(**processor(images=image, return_tensors="pt", do_resize=False)).last_hidden_state[0]
    patches = states[5:].reshape(12, 12, 32)
    expected = patches.reshape(6, 2, 6, 2, 32).mean((1, 3)).reshape(36, 32)
    np.testing.assert_allclose(regions.features.astype(float), expected, atol=2e-3)


def test_patches_that_cells_do_not_divide_and_other_grids_have_features(tmp_path: Path) -> None:
    folder = _backbone(tmp_path / "model", "vit", patch=32)  # 3 x 3 patches
    for regions in (36, 16, 1):
        (found,) = _open(folder, regions=regions).detect([picture(50, 70)])
        assert found.features.shape == (regions, 32)


def test_features_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    detector = _open(_backbone(tmp_path / "model", "clip"))
    pictures = [picture(60, 120), picture(33, 20, seed=1)]
    alone = [detector.detect([one])[0].features.tobytes() for one in pictures]
    assert [found.features.tobytes() for found in detector.detect(pictures[::-1])] == alone[::-1]


def test_regions_that_are_no_square_and_models_without_patches_are_refused(tmp_path: Path) -> None:
    folder = _backbone(tmp_path / "model", "vit")
    with pytest.raises(InputError, match="40 regions are no grid of n x n cells; use --regions 36 or 49"):
        _open(folder, regions=40)
    transformers.BertConfig(**TINY).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="is a bert, neither a detector nor a vision backbone with patches"):
        _open(tmp_path / "bert")


def test_a_backbone_that_merges_patches_is_refused(tmp_path: Path) -> None:
    config = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4
    )
    processor = transformers.ViTImageProcessorPil(size={"height": 64, "width": 64})
    save(tmp_path / "swin", transformers.SwinModel(config), processor)
    with pytest.raises(InputError, match=r"SwinModel gives \[64, 16\], not 16 x 16 patches"):
        _open(tmp_path / "swin")
