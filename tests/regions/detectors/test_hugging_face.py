"""Detectors of transformers: tiny ones with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_detectors import LABELS, picture, save_detr, save_rt_detr, save_yolos, transformers

from msp_ds.errors import InputError
from msp_ds.records import IGNORE
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors.hugging_face import HuggingFaceDetector, _widened, weights_sha256
from msp_ds.storage.checksums import sha256_of_file

SAVERS = {"detr": save_detr, "rt_detr": save_rt_detr, "yolos": save_yolos}
POOLED_WIDTH = {"detr": 64, "rt_detr": 64, "yolos": 32}
every_type = pytest.mark.parametrize("model_type", SAVERS)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = SAVERS[model_type](tmp_path_factory.mktemp(model_type) / "model")
        return made[model_type]

    return folder


def _open(folder: Path, **options: Any) -> HuggingFaceDetector:
    return HuggingFaceDetector(str(folder), options=DetectorOptions(**options))


def _bytes(regions: DetectedRegions) -> list[bytes]:
    return [array.tobytes() for array in vars(regions).values()]


def _raw(folder: Path, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes in pixels, logits and states of the queries, by transformers alone."""
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        output = model(**processor(images=image, return_tensors="pt"))
    x, y, width, height = output.pred_boxes[0].unbind(1)
    boxes = torch.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2), dim=1)
    sides = torch.tensor([image.shape[1], image.shape[0]] * 2)
    return (boxes.clamp(0, 1) * sides), output.logits[0], output.last_hidden_state[0, -20:]


@every_type
def test_score_label_and_state_of_a_region_are_those_of_the_query_with_its_box(
    folder_of: Callable[[str], Path], model_type: str
) -> None:
    image = picture(120, 160)
    (regions,) = _open(folder_of(model_type), features="states").detect([image])
    boxes, logits, states = _raw(folder_of(model_type), image)
    probabilities = logits.softmax(1)[:, :5] if logits.shape[1] == 6 else logits.sigmoid()
    queries = torch.cdist(torch.from_numpy(regions.boxes), boxes).argmin(1)
    assert len(set(queries.tolist())) == len(queries) > 3
    scores, labels = probabilities[queries].max(1)
    np.testing.assert_allclose(regions.object_scores, scores, rtol=1e-4)
    expected = labels.where((scores >= 0.15) & (labels > 0), IGNORE)  # label 0 is "N/A"
    assert regions.object_ids.tolist() == expected.tolist()
    np.testing.assert_allclose(regions.features.astype(float), states[queries], atol=2e-3)


def test_detr_and_yolos_have_a_column_for_no_object_and_rt_detr_has_none(folder_of: Callable[[str], Path]) -> None:
    widths = {name: _raw(folder_of(name), picture(96, 96))[1].shape[1] for name in SAVERS}
    assert widths == {"detr": 6, "rt_detr": 5, "yolos": 6}


@every_type
def test_features_are_pooled_maps_or_states_or_both_joined(folder_of: Callable[[str], Path], model_type: str) -> None:
    found = {}
    for features, width in (
        ("pooled", POOLED_WIDTH[model_type]),
        ("states", 32),
        ("both", POOLED_WIDTH[model_type] + 32),
    ):
        detector = _open(folder_of(model_type), features=features)
        (regions,) = detector.detect([picture(120, 160)])
        assert regions.features.shape == (len(regions.boxes), detector.feature_width) == (len(regions.boxes), width)
        found[features] = regions.features
    np.testing.assert_array_equal(found["both"], np.concatenate((found["pooled"], found["states"]), axis=1))


@every_type
def test_a_picture_has_the_same_regions_alone_in_a_batch_and_in_another_order(
    folder_of: Callable[[str], Path], model_type: str
) -> None:
    detector = _open(folder_of(model_type))
    pictures = [picture(120, 160), picture(200, 90, seed=1), picture(64, 64, seed=2)]
    alone = [_bytes(detector.detect([one])[0]) for one in pictures]
    assert [_bytes(one) for one in detector.detect(pictures)] == alone
    assert [_bytes(one) for one in detector.detect(pictures[::-1])] == alone[::-1]


def test_labels_keep_doubles_and_synonyms_and_one_without_a_name_is_no_label(folder_of: Callable[[str], Path]) -> None:
    detector = _open(folder_of("yolos"))
    assert detector.objects == tuple(LABELS.values())
    (regions,) = detector.detect([picture(120, 160)])
    assert IGNORE in regions.object_ids
    assert 0 not in regions.object_ids


def test_no_more_regions_than_wanted_and_all_inside(folder_of: Callable[[str], Path]) -> None:
    (regions,) = _open(folder_of("yolos"), regions=5).detect([picture(120, 160)])
    assert len(regions.boxes) == 5
    assert regions.boxes.min() >= 0
    assert (regions.boxes <= [160, 120, 160, 120]).all()
    assert (np.diff(regions.object_scores) <= 0).all()


def test_the_record_names_weights_processor_features_and_precision(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("detr")
    record = _open(folder).record
    assert (record.kind, record.name) == ("transformers", "model")
    assert record.weights_sha256 == sha256_of_file(folder / "model.safetensors")
    assert record.settings["resizer"].startswith("DetrImageProcessorPil")
    assert record.settings["features"] == "pooled"
    others = [_open(folder, features="both"), _open(folder, precision="bf16"), _open(folder, regions=10)]
    assert len({record.identity, *(other.record.identity for other in others)}) == 4


def test_bf16_features_are_near_those_of_fp32(folder_of: Callable[[str], Path]) -> None:
    image = picture(120, 160)
    exact, near = (
        _open(folder_of("rt_detr"), precision=one, regions=20).detect([image])[0] for one in ("fp32", "bf16")
    )
    rows = np.linalg.norm(exact.boxes[:, None] - near.boxes[None], axis=2).argmin(1)
    assert np.linalg.norm(exact.features.astype(float) - near.features[rows]) < 0.1 * np.linalg.norm(exact.features)


def test_the_sum_of_several_weight_files_names_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        weights_sha256(tmp_path)
    for name in ("model-1.safetensors", "model-2.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_text(name)
    both = weights_sha256(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("not loaded")
    assert weights_sha256(tmp_path) == both
    (tmp_path / "adapter.safetensors").write_text("not loaded")
    assert weights_sha256(tmp_path) == both
    (tmp_path / "model-2.safetensors").write_text("other weights")
    assert weights_sha256(tmp_path) != both


def test_what_is_done_to_pixels_is_in_the_record(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of("detr"), tmp_path / "model")
    file = folder / "preprocessor_config.json"
    plain = json.loads(file.read_text())
    identities = {_open(folder).record.identity}
    for change in ({"rescale_factor": 1.0}, {"do_rescale": False}, {"do_resize": False}, {"do_normalize": False}):
        file.write_text(json.dumps(plain | change))
        identities.add(_open(folder).record.identity)
    assert len(identities) == 5


def test_nothing_is_printed_while_a_detector_is_opened(
    folder_of: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of("yolos")
    capfd.readouterr()
    _open(folder)
    assert capfd.readouterr() == ("", "")


def test_a_strip_has_regions_inside_it_and_takes_no_more_memory_than_other_pictures(
    folder_of: Callable[[str], Path],
) -> None:
    detector = _open(folder_of("detr"))
    for shape in ((3, 2000), (65535, 1), (1, 1)):
        (found,) = detector.detect([np.full((*shape, 3), 9, np.uint8)])
        assert (found.boxes <= [shape[1], shape[0]] * 2).all()
    assert _widened(np.zeros((65535, 1, 3), np.uint8)).shape == (2048, 64, 3)
    assert _widened(np.zeros((200, 8000, 3), np.uint8)).shape == (64, 2048, 3)
    assert _widened(np.zeros((2, 2000, 3), np.uint8)).shape == (62, 2000, 3)


@pytest.mark.parametrize("model_type", ["pp_doclayout_v2", "pp_ocrv5_server_det"])
def test_finders_of_document_parts_are_refused_by_name(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(InputError, match=f"is a {model_type}, which finds parts of documents"):
        _open(tmp_path)


def test_weights_that_are_missing_are_not_drawn_at_random(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    model = transformers.YolosModel.from_pretrained(folder_of("yolos"))  # without its heads
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((folder_of("yolos") / "preprocessor_config.json").read_bytes())
    with pytest.raises(InputError, match="weights of a YolosForObjectDetection, such as bbox_predictor"):
        _open(tmp_path)
