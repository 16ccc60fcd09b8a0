"""The published layouts, the folder of an import, and one line for what is no such detector."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refusal
from torch import Tensor
from vg_files import (
    ANCHORS,
    HEADS,
    RPN,
    SMALL,
    background_first,
    recipe_weights,
    write_detector,
    write_labels,
    write_pickle,
)

from msp_ds.errors import InputError
from msp_ds.model.weights.tensor_files import read_tensors
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors.vg import VgDetector
from msp_ds.regions.detectors.vg_network import VgNetwork, VgSizes, default_anchors
from msp_ds.regions.detectors.vg_weights import import_vg_detector, to_our_layout

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    torch.save(weights, path)
    return path


def found_by(folder: Path, source: Path) -> DetectedRegions:
    folder = write_detector(folder, source, shorter_side=90, longer_side=160, proposals=20)
    return VgDetector(folder, options=DetectorOptions(selection="max-nms")).detect([PICTURE])[0]


def test_the_640_tensors_of_the_published_network_load_strictly() -> None:
    with torch.device("meta"):
        network, weights = VgNetwork(VgSizes()), {name: torch.empty(one.shape) for name, one in recipe_shapes().items()}
    assert len(weights) == 640
    network.load_state_dict(weights, assign=True)
    assert sum(one.numel() for one in weights.values() if one.dim()) == 65_545_214
    layout, ours = to_our_layout(weights, Path("x.bin"), VgSizes())
    assert (layout, len(ours)) == ("py-bottom-up-attention", 640 - 104)


def recipe_shapes() -> dict[str, torch.Tensor]:
    """Names and shapes as the published files have them, written out from the description of the network."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, outputs: int, inputs: int, size: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        shapes[f"{name}.norm.num_batches_tracked"] = ()
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{kind}"] = (outputs,)

    conv("backbone.stem.conv1", 64, 3, 7)
    inputs = 64
    stages = [
        ("backbone.res2", 64, 3),
        ("backbone.res3", 128, 4),
        ("backbone.res4", 256, 23),
        ("roi_heads.res5", 512, 3),
    ]
    for stage, width, blocks in stages:
        for k in range(blocks):
            conv(f"{stage}.{k}.conv1", width, inputs, 1)
            conv(f"{stage}.{k}.conv2", width, width, 3)
            conv(f"{stage}.{k}.conv3", 4 * width, width, 1)
            if not k:
                conv(f"{stage}.0.shortcut", 4 * width, inputs, 1)
            inputs = 4 * width
    layers: dict[str, tuple[int, ...]] = {
        f"{RPN}.conv": (512, 1024, 3, 3),
        f"{RPN}.objectness_logits": (12, 512, 1, 1),
        f"{RPN}.anchor_deltas": (48, 512, 1, 1),
        f"{HEADS}.cls_score": (1601, 2048),
        f"{HEADS}.bbox_pred": (6400, 2048),
        f"{HEADS}.fc_attr": (512, 2304),
        f"{HEADS}.attr_score": (401, 512),
    }
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {f"{HEADS}.cls_embedding.weight": (1601, 256), ANCHORS: (12, 4)}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_default_anchors_go_by_size_and_then_by_ratio() -> None:
    half = 64 / 2**0.5 / 2
    assert default_anchors()[0].tolist() == pytest.approx([-2 * half, -half, 2 * half, half])
    assert default_anchors()[4].tolist() == [-64, -64, 64, 64]


def test_three_layouts_of_one_detector_find_the_same(tmp_path: Path) -> None:
    weights = recipe_weights()
    sources = {
        "hub": saved(tmp_path / "pytorch_model.bin", weights),
        "pickle": write_pickle(tmp_path / "faster_rcnn.pkl", weights),
        "without": saved(tmp_path / "w.pth", {name: one for name, one in weights.items() if name != ANCHORS}),
        "caffe": saved(tmp_path / "bua.pth", {"model": background_first(weights)}),
    }
    found = {name: found_by(tmp_path / name, source) for name, source in sources.items()}
    assert len(found["hub"].boxes) > 5
    for name in ("pickle", "without", "caffe"):
        for field, value in vars(found["hub"]).items():
            np.testing.assert_allclose(getattr(found[name], field), value, rtol=2e-3, atol=1e-5, err_msg=name)
    layouts = {name: json.loads((tmp_path / name / "detector.json").read_text())["layout"] for name in sources}
    assert layouts == dict.fromkeys(sources, "py-bottom-up-attention") | {"caffe": "bottom-up-attention.pytorch"}


def test_caffes_anchors_stand_in_where_its_layout_has_none() -> None:
    weights = background_first(recipe_weights())
    del weights[ANCHORS]
    anchors = to_our_layout(weights, Path("bua.pth"), SMALL)[1][ANCHORS]
    assert anchors[[0, 3, 4, 11]].tolist() == [
        [-38, -16, 53, 31],
        [-360, -184, 375, 199],
        [-24, -24, 39, 39],
        [-168, -344, 183, 359],
    ]


def test_the_folder_says_where_it_is_from(tmp_path: Path) -> None:
    source = saved(tmp_path / "pytorch_model.bin", recipe_weights())
    folder = write_detector(tmp_path / "out", source)
    card = json.loads((folder / "detector.json").read_text())
    assert (card["kind"], card["source"]) == ("vg", "pytorch_model.bin")
    assert card["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (card["shorter_side"], card["longer_side"], card["resizer"]) == (600, 1000, "Pillow bilinear")
    assert not any(name.endswith("num_batches_tracked") for name in read_tensors(folder / "weights.safetensors"))
    with pytest.raises(InputError, match=r"holds a detector already; .* --overwrite"):
        write_detector(folder, source)


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.pop(name)


def swapped(one: str, other: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.update({one: weights[other], other: weights[one]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(f"{HEADS}.attr_score.bias"), "lacks the tensor roi_heads.box_predictor.attr_score.bias; name"),
        (swapped("backbone.res2.0.conv1.weight", "backbone.res2.0.conv3.weight"), "has the shape"),
        (lambda weights: weights.update(more=torch.ones(1)), "has the tensor more; name the R-101 C4"),
        (lambda weights: (weights.clear(), weights.update(x=torch.ones(1))), "lacks the tensor backbone.res2"),
    ],
)
@pytest.mark.parametrize("layout", ["ours", "theirs"])
def test_another_checkpoint_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str, layout: str
) -> None:
    weights = recipe_weights()
    change(weights)
    if layout == "theirs" and len(weights) > 1:
        weights = background_first(weights) if f"{HEADS}.attr_score.bias" in weights else weights
    source = saved(tmp_path / "x.pth", weights)
    with pytest.raises(InputError, match=message):
        write_detector(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(InputError, match=r"x\.pkl is a damaged or foreign pickle \(it needs os\.system"):
        write_detector(tmp_path / "out", tmp_path / "x.pkl")


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    source, labels = saved(tmp_path / "x.pth", recipe_weights()), write_labels(tmp_path)
    labels["objects"].write_text("__background__\ncat\ndog\nski\ncup\nbus\n")
    with pytest.raises(InputError, match=r"objects\.txt lists 6 labels, .* has 5; name the list"):
        import_vg_detector(source, **labels, out=tmp_path / "out", sizes=SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shorter_side": 0}, "must be positive"),
        ({"sizes": {"width": 4, "blocks": [1, 2, 1, 2], "objects": 5, "attributes": 4}}, "has the shape"),
        ({"kind": "vg2"}, "'vg2' is none of vg"),
        ({"stride": 8}, "unknown key stride"),
    ],
)
def test_a_card_that_was_edited_badly_or_is_of_another_version_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = write_detector(tmp_path / "out", saved(tmp_path / "x.pth", recipe_weights()))
    card = json.loads((folder / "detector.json").read_text())
    (folder / "detector.json").write_text(json.dumps(card | change))
    with pytest.raises(InputError, match=message):
        VgDetector(folder, options=DetectorOptions())


def test_label_files_of_another_number_are_refused_when_a_folder_is_opened(tmp_path: Path) -> None:
    folder = write_detector(tmp_path / "out", saved(tmp_path / "x.pth", recipe_weights()))
    (folder / "objects_vocab.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"objects_vocab\.txt lists 1 labels, .* has 5"):
        VgDetector(folder, options=DetectorOptions())


@pytest.mark.parametrize("saved_value", [[1], {"model": [1]}, {"model": {1: np.zeros(2)}}, {"model": {"x": "y"}}, 5])
def test_a_pickle_of_anything_else_is_refused(tmp_path: Path, saved_value: object) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(saved_value, protocol=2))
    with pytest.raises(InputError, match=r"x\.pkl"):
        write_detector(tmp_path / "out", tmp_path / "x.pkl")


def test_the_command_says_what_it_lacks_and_what_does_not_belong(tmp_path: Path) -> None:
    labels = write_labels(tmp_path)
    flags = ("import", "x.pth", "--from", "vg-detector", "--out", str(tmp_path / "out"))
    both = ("--objects-vocab", str(labels["objects"]), "--attributes-vocab", str(labels["attributes"]))
    assert "needs the labels: --objects-vocab FILE --attributes-vocab FILE" in refusal(*flags)
    assert "--preset is not for --from vg-detector; leave it out" in refusal(*flags, *both, "--preset", "tiny")
    assert "x.pth is missing" in refusal(*flags, *both)
    assert "are for --from vg-detector; leave them out" in refusal(
        "import", "x.pth", "--from", "bert", *flags[4:], *both
    )
