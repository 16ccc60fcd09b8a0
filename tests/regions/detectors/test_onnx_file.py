"""Detectors in ONNX: the real CenterNet on photographs, and the decoding of outputs by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxruntime")

from msp_ds.errors import InputError
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors.find import find_detector
from msp_ds.regions.detectors.onnx_file import OnnxDetector, open_onnx, prepare_input
from msp_ds.regions.detectors.onnx_outputs import OnnxDescription, OnnxInput, OnnxOutputs, decode_outputs

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "centernet_coco80.toml"
NETWORK = "centernet_mobilenetv3_coco80.onnx"


@pytest.fixture
def folder(tmp_path: Path, real_data: Path) -> Path:
    """The real network with the description of the examples."""
    for name in (NETWORK, "coco80.txt"):
        (tmp_path / name).symlink_to(real_data / "detector" / name)
    shutil.copy(EXAMPLE, tmp_path / "detector.toml")
    return tmp_path


@pytest.fixture
def centernet(folder: Path) -> OnnxDetector:
    return open_onnx(folder / NETWORK, options=DetectorOptions())


def _photograph(real_data: Path, name: str) -> np.ndarray:
    with Image.open(real_data / "photographs" / name) as image:
        return np.asarray(image.convert("RGB"))


def _bytes(regions: DetectedRegions) -> list[bytes]:
    return [array.tobytes() for array in vars(regions).values()]


@pytest.mark.parametrize(
    ("photograph", "expected"),
    [
        ("COCO_train2014_000000132417.jpg", [{"bird"}]),
        ("COCO_train2014_000000207647.jpg", [{"person"}, {"sports ball"}, {"baseball bat"}]),
        ("COCO_train2014_000000494628.jpg", [{"horse"}, {"person"}]),
        ("COCO_train2014_000000573195.jpg", [{"car"}, {"cat", "dog"}]),
        ("COCO_train2014_000000578174.jpg", [{"car"}, {"person"}]),
        ("astronaut.png", [{"person"}]),
        ("chelsea.png", [{"cat", "dog"}]),
        ("coffee.png", [{"cup"}]),
        ("motorcycle_left.png", [{"motorcycle"}]),
    ],
)
def test_the_real_detector_finds_what_anyone_sees(
    centernet: OnnxDetector, real_data: Path, photograph: str, expected: list[set[str]]
) -> None:
    (regions,) = centernet.detect([_photograph(real_data, photograph)])
    sure = {centernet.objects[row] for row in regions.object_ids if row >= 0}
    assert all(sure & names for names in expected)


def test_the_motorcycle_has_the_box_of_the_motorcycle(centernet: OnnxDetector, real_data: Path) -> None:
    picture = _photograph(real_data, "motorcycle_left.png")
    (regions,) = centernet.detect([picture])
    x0, y0, x1, y1 = regions.boxes[0]
    assert centernet.objects[regions.object_ids[0]] == "motorcycle"
    assert 90 <= x0 <= 130  # by eye: its wheels reach from 115 to 675 of 741 pixels, its mirrors from 60 to 450 of 500
    assert 40 <= y0 <= 80
    assert 650 <= x1 <= 700
    assert 430 <= y1 <= 465


def test_a_picture_has_the_same_regions_alone_in_a_batch_and_in_another_order(
    centernet: OnnxDetector, real_data: Path
) -> None:
    names = ("chelsea.png", "rocket.jpg", "coffee.png")
    pictures = [_photograph(real_data, name) for name in names]
    alone = [_bytes(centernet.detect([picture])[0]) for picture in pictures]
    assert [_bytes(one) for one in centernet.detect(pictures)] == alone
    assert [_bytes(one) for one in centernet.detect(pictures[::-1])] == alone[::-1]


def test_regions_are_inside_the_picture_by_falling_score_and_labelled_from_the_threshold_on(
    centernet: OnnxDetector, real_data: Path
) -> None:
    picture = _photograph(real_data, "COCO_train2014_000000578174.jpg")
    (regions,) = centernet.detect([picture])
    height, width = picture.shape[:2]
    assert len(regions.boxes) == 36
    assert regions.features.shape == (36, centernet.feature_width) == (36, 792)
    assert regions.boxes.min() >= 0
    assert (regions.boxes <= [width, height, width, height]).all()
    assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
    assert (np.diff(regions.object_scores) <= 0).all()
    assert ((regions.object_ids >= 0) == (regions.object_scores >= 0.15)).all()
    assert set(regions.attribute_ids) == {-1}


def test_tiny_and_very_long_pictures_are_no_fault(centernet: OnnxDetector) -> None:
    for shape in ((1, 1, 3), (3, 2000, 3)):
        (regions,) = centernet.detect([np.full(shape, 200, dtype=np.uint8)])
        assert len(regions.boxes) == len(regions.features) <= 36


def test_another_description_is_another_detector_and_another_place_is_not(folder: Path, tmp_path: Path) -> None:
    before = find_detector(str(folder), options=DetectorOptions()).record
    toml = folder / "detector.toml"
    text = toml.read_text()
    toml.rename(folder / NETWORK.replace(".onnx", ".toml"))
    assert find_detector(str(folder / NETWORK), options=DetectorOptions()).record == before
    (folder / NETWORK.replace(".onnx", ".toml")).write_text(text.replace("mean = [0, 0, 0]", "mean = [1, 0, 0]"))
    assert find_detector(str(folder), options=DetectorOptions()).record.identity != before.identity


def test_weights_beside_the_network_are_on_record(folder: Path) -> None:
    before = find_detector(str(folder), options=DetectorOptions()).record
    (folder / f"{NETWORK}.data").write_bytes(b"weights")
    assert find_detector(str(folder), options=DetectorOptions()).record.identity != before.identity


def test_a_package_without_cuda_says_that_it_computes_on_the_cpu(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, centernet: OnnxDetector
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert open_onnx(folder / NETWORK, options=DetectorOptions(device="cuda")).record == centernet.record
    assert f"{NETWORK} runs on the CPU: onnxruntime has no CUDA here; install onnxruntime-gpu" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width = 512 ", "widht = 512 ", "unknown key widht"),
        ('"tower_0/wh"', '"tower_0/hw"', "it has no output tower_0/hw; its outputs are tower_0/keypoints, "),
        ('"tower_0/images"', '"images"', "its inputs are tower_0/images, and input.name is images"),
        ("width = 512 ", "width = 256 ", f"{Path(NETWORK).stem} cannot be run: "),
        ("heat_map =", "scores =", "name either boxes and scores, or heat_map and sizes"),
        ("coco80.txt", "coco.txt", "coco.txt cannot be read"),
        ("[input]", "[input", "is not valid TOML"),
        ("std = [1, 1, 1]", "std = [1, 0, 1]", "and std not 0"),
    ],
)
def test_a_wrong_description_is_refused_in_one_line(folder: Path, old: str, new: str, message: str) -> None:
    toml = folder / "detector.toml"
    assert old in toml.read_text()
    toml.write_text(toml.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"detector\.toml|coco\.txt") as caught:
        open_onnx(folder / NETWORK, options=DetectorOptions())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_of_another_number_are_refused(folder: Path) -> None:
    (folder / "coco80.txt").unlink()
    (folder / "coco80.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match=r"tower_0/keypoints has the shape \[1, 80, 128, 128\].*say \[1, 2, h, w\]"):
        open_onnx(folder / NETWORK, options=DetectorOptions())


def test_a_file_that_is_no_network_and_one_without_description_are_refused(tmp_path: Path) -> None:
    network = tmp_path / "a.onnx"
    network.write_bytes(b"no network")
    with pytest.raises(InputError, match=r"a\.onnx has no description; write a\.toml or detector\.toml beside it"):
        open_onnx(network, options=DetectorOptions())
    shutil.copy(EXAMPLE, tmp_path / "a.toml")
    (tmp_path / "coco80.txt").write_text("cat\n")
    with pytest.raises(InputError, match="the file is not a network in ONNX"):
        open_onnx(network, options=DetectorOptions())


def _description(**outputs: object) -> OnnxDescription:
    size = OnnxInput(name="x", width=200, height=100)
    return OnnxDescription(labels="", input=size, outputs=OnnxOutputs(feature_maps=("m",), **outputs))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("box_format", "box_unit", "box"),
    [
        ("xyxy", "pixels", [20, 10, 60, 50]),
        ("cxcywh", "pixels", [40, 30, 40, 40]),
        ("xyxy", "fractions", [0.1, 0.1, 0.3, 0.5]),
        ("cxcywh", "fractions", [0.2, 0.3, 0.2, 0.4]),
    ],
)
def test_boxes_of_every_format_are_corners_in_pixels(box_format: str, box_unit: str, box: list[float]) -> None:
    description = _description(boxes="b", scores="s", box_format=box_format, box_unit=box_unit)
    arrays = {"b": torch.tensor([[box]]), "s": torch.tensor([[[0.1, 0.7]]])}
    boxes, scores, labels = decode_outputs(arrays, description, 2)
    torch.testing.assert_close(boxes, torch.tensor([[20.0, 10.0, 60.0, 50.0]]))
    assert (scores.tolist(), labels.tolist()) == ([pytest.approx(0.7)], [1])


def test_scores_are_squashed_as_described_and_no_object_is_no_label() -> None:
    logits = torch.tensor([[[0.0, np.log(3.0), np.log(4.0)]]])  # softmax: 1/8, 3/8, 4/8; sigmoid of log 3: 3/4
    arrays = {"b": torch.zeros(1, 1, 4), "s": logits}
    for activation, expected in (("softmax", 3 / 8), ("sigmoid", 3 / 4)):
        _, scores, labels = decode_outputs(arrays, _description(boxes="b", scores="s", activation=activation), 2)
        assert scores.tolist() == pytest.approx([expected])
        assert labels.tolist() == [1]


def test_labels_may_be_an_output_and_one_beyond_the_list_is_refused() -> None:
    description = _description(boxes="b", scores="s", label_ids="l")
    arrays = {"b": torch.zeros(1, 2, 4), "s": torch.tensor([[0.2, 0.9]]), "l": torch.tensor([[1, 0]])}
    _, scores, labels = decode_outputs(arrays, description, 2)
    assert (scores.tolist(), labels.tolist()) == (pytest.approx([0.2, 0.9]), [1, 0])
    with pytest.raises(InputError, match="output l has label 1 of 1 labels"):
        decode_outputs(arrays, description, 1)


def test_a_heat_map_gives_its_peaks_with_the_distances_of_their_cells() -> None:
    heat = torch.zeros(1, 2, 5, 10)  # a cell is 20 x 20 pixels of the input of 200 x 100
    heat[0, 1, 2, 3], heat[0, 0, 2, 4], heat[0, 1, 2, 4] = 0.9, 0.5, 0.6  # the second label's cell beside it is no peak
    sizes = torch.tensor([5.0, 6.0, 7.0, 8.0]).reshape(1, 4, 1, 1).expand(1, 4, 5, 10)
    arrays = {"h": heat, "w": sizes}
    boxes, scores, labels = decode_outputs(arrays, _description(heat_map="h", sizes="w"), 2)
    assert scores.nonzero()[:, 0].tolist() == [23, 24]
    assert scores[[23, 24]].tolist() == pytest.approx([0.9, 0.5])
    assert labels[[23, 24]].tolist() == [1, 0]
    assert boxes[23].tolist() == [60 - 5, 40 - 6, 60 + 7, 40 + 8]


def test_a_letterbox_keeps_the_aspect_ratio_and_turns_boxes_into_the_input() -> None:
    image = OnnxInput(name="x", width=200, height=100, resize="letterbox", padding=9, channels="BGR")
    picture = np.zeros((50, 50, 3), dtype=np.uint8)
    picture[..., 0] = 250  # red
    values, scale, offset = prepare_input(picture, image)
    assert values.shape == (1, 3, 100, 200)
    assert values[0, :, 50, 100].tolist() == [0, 0, 250]
    assert values[0, :, 50, 49].tolist() == [9, 9, 9]
    assert (torch.tensor([0.0, 0, 50, 50]) * scale + offset).tolist() == [50, 0, 150, 100]


def test_mean_and_std_are_of_values_to_255() -> None:
    image = OnnxInput(name="x", width=2, height=2, mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    values, _, _ = prepare_input(np.full((2, 2, 3), 50, dtype=np.uint8), image)
    assert values[0, :, 0, 0].tolist() == [40, 15, 5]
