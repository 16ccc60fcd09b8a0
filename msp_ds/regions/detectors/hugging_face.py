"""A detector of Hugging Face transformers: DETR, RT-DETR, Deformable DETR, YOLOS and what AutoModelForObjectDetection
loads beside them. N queries, C labels.

Whether features of the backbone, decoder states or both are the best for pre-training is unmeasured; compare them with
`msp-ds evaluate`.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
from transformers.utils import cached_file
from transformers.utils import logging as their_logging

from msp_ds.detector_record import DetectorRecord, labels_sha256
from msp_ds.errors import InputError
from msp_ds.records import IGNORE
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors import shared_steps
from msp_ds.regions.pooling import box_means

_DOCUMENT_TYPES = ("pp_doclayout", "pp_ocr")
"""Starts of model types that find paragraphs and lines of text, with outputs of their own."""
NO_LABEL = "N/A"
"""What COCO's unused numbers are called in DETR's label lists."""
_MOST_NARROW = 32
"""Long side over short side."""
_LONGEST_STRIP = 2048
"""Pixels of the long side of a picture beyond that."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def is_detector(model_type: str) -> bool:
    """Return whether AutoModelForObjectDetection loads models of this type."""
    return model_type in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES


def load_config(name: str) -> Any:
    """Return the configuration of a folder or of a name on the hub. Raises: InputError if there is none."""
    return _loaded(transformers.AutoConfig, name)


def load_model(kind: Any, name: str, options: DetectorOptions, *, unused: str = "-") -> Any:
    """Return a model for inference with all its weights, those whose name contains `unused` apart.

    Raises: InputError for weights that are missing, damaged or of another shape.
    """
    model, report = _loaded(kind, name, dtype=_DTYPES[options.precision], output_loading_info=True)
    missing = sorted(key for key in report["missing_keys"] if unused not in key)
    if missing:  # transformers draws them at random
        raise InputError(f"{name} lacks {len(missing)} weights of a {type(model).__name__}, such as {missing[0]}")
    return model.eval().requires_grad_(False).to(options.device)


def load_processor(name: str) -> Any:
    """Return the image processor that needs no torchvision, whose resizer differs. Raises: InputError."""
    return _loaded(transformers.AutoImageProcessor, name, backend="pil")


def make_record(kind: str, name: str, model: Any, settings: dict[str, str], objects: Sequence[str]) -> DetectorRecord:
    """Return the record of a model that was loaded from a folder or from the hub."""
    folder = Path(name) if Path(name).is_dir() else Path(cached_file(name, "config.json")).parent
    return DetectorRecord(
        kind=kind,
        name=folder.resolve().name if Path(name).is_dir() else name,
        weights_sha256=weights_sha256(folder),
        settings=settings | {"model": type(model).__name__},
        objects_sha256=labels_sha256(tuple(objects)),
        versions=shared_steps.installed_versions("transformers", "torch", "pillow"),
    )


def weights_sha256(folder: Path) -> str:
    """Return the sha256 of the files that transformers reads: of safetensors where there are any.

    Raises: InputError where there are none, as for weights that the hub keeps in another revision.
    """
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise InputError(f"{folder} holds no model.safetensors or pytorch_model.bin; save the model to a folder")
    return shared_steps.sha256_of_files(files)


def describe_processor(processor: Any, size: object) -> dict[str, str]:
    """Return what an image processor does to a picture, for the record. size: what it makes of the picture's."""
    value: dict[str, Any] = {
        name: getattr(processor, name, None) for name in ("resample", "rescale_factor", "image_mean", "image_std")
    }
    steps = [str(size)]
    if getattr(processor, "do_rescale", False):
        steps.append(f"values / {round(1 / value['rescale_factor'], 3)}")
    if getattr(processor, "do_normalize", False):
        # Lists or tuples by the version of transformers.
        steps += [f"{name[6:]} {np.ravel(value[name]).tolist()}" for name in ("image_mean", "image_std")]
    resample = int(value["resample"]) if value["resample"] is not None else "default"
    return {"resizer": f"{type(processor).__name__} {resample}", "input": ", ".join(steps)}


class HuggingFaceDetector:
    """The regions of a detector's queries, one picture at a time: a padded batch would change the features.

    Labels are those of config.json, doubles too; commas in them separate synonyms, as in all label lists.
    """

    attributes: tuple[str, ...] = ()

    def __init__(self, name: str, *, options: DetectorOptions) -> None:
        config = load_config(name)
        if config.model_type.startswith(_DOCUMENT_TYPES):
            raise InputError(f"{name} is a {config.model_type}, which finds parts of documents, not objects")
        self._options, self._processor = options, load_processor(name)
        self._model = load_model(transformers.AutoModelForObjectDetection, name, options)
        labels = [str(config.id2label.get(row, NO_LABEL)) for row in range(config.num_labels)]
        self.objects = tuple(" ".join(label.split()) or NO_LABEL for label in labels)
        self._ids = torch.tensor(
            [IGNORE if label.upper() == NO_LABEL else row for row, label in enumerate(self.objects)]
        )
        self._maps: list[Tensor] = []
        if backbone := _find_backbone(self._model):
            backbone.register_forward_hook(lambda module, inputs, output: self._maps.extend(_feature_maps(output)))
        does_resize = getattr(self._processor, "do_resize", False)
        sides = dict(self._processor.size or {}).items() if does_resize else ()
        size = {name: side for name, side in sorted(sides) if side}
        settings = describe_processor(self._processor, size) | {
            "features": options.features,
            "label_threshold": str(shared_steps.LABEL_THRESHOLD),
            "precision": options.precision,
            "regions": str(options.regions),
        }
        self.record = make_record("transformers", name, self._model, settings, self.objects)
        self.feature_width = shared_steps.feature_width(self)

    def detect(self, pictures: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """Return the regions of each picture; see `Detector`."""
        with shared_steps.inference():
            return [self._detect_one(picture) for picture in pictures]

    def _detect_one(self, picture: np.ndarray) -> DetectedRegions:
        pixels = run_processor(self._processor, _widened(picture)).to(
            self._options.device, _DTYPES[self._options.precision]
        )
        self._maps.clear()
        output = self._model(pixel_values=pixels)
        scores, labels = self._best_labels(output.logits[0].float().cpu())
        found = output.pred_boxes[0].float().cpu()
        centre, half = found[:, :2], found[:, 2:] / 2
        height, width = picture.shape[:2]
        sides = torch.tensor([width, height] * 2)
        boxes = shared_steps.clip_boxes(torch.cat((centre - half, centre + half), dim=1) * sides, picture)
        rows = shared_steps.choose_rows(boxes, scores, self._options.regions)
        features = self._features(output, pixels, (boxes / sides)[rows], rows)
        return shared_steps.plain_regions(boxes[rows], features, labels[rows], scores[rows])

    def _best_labels(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The best score float32 [N] and its label int64 [N] of logits [N, C], or [N, C + 1] where the last is "no
        object" and the scores are a softmax."""
        width = logits.shape[1]
        if width not in (len(self.objects), len(self.objects) + 1):
            raise InputError(f"the detector has {width} scores a query, but {len(self.objects)} labels in config.json")
        scores, best = (logits.sigmoid() if width == len(self.objects) else logits.softmax(1)[:, :-1]).max(1)
        return scores, self._ids[best].where(scores >= shared_steps.LABEL_THRESHOLD, IGNORE)

    def _features(self, output: Any, pixels: Tensor, boxes: Tensor, rows: Tensor) -> Tensor:
        """Features float32 [R, F] of queries `rows`, whose boxes are float32 [R, 4], fractions of the picture."""
        states, queries = output.last_hidden_state[0].float().cpu(), output.logits.shape[1]
        found = []
        if self._options.features != "states":
            feature_map = self._maps[-1][0] if self._maps else _patch_map(states, pixels, self._model.config)
            found.append(box_means(feature_map.float().cpu(), boxes))
        if self._options.features != "pooled":
            tokens = getattr(self._model.config, "num_detection_tokens", len(states))  # YOLOS: behind the patches
            if tokens != queries:
                raise InputError(f"the detector has {tokens} states for {queries} boxes; use --features pooled")
            found.append(states[-tokens:][rows])
        return torch.cat(found, dim=1)


def run_processor(processor: Any, picture: np.ndarray, **settings: Any) -> Tensor:
    """Return the pixel values of an RGB picture, uint8 [H, W, 3]: float32 [1, 3, height, width], without padding."""
    settings |= {"input_data_format": "channels_last", "do_pad": False}
    values: Tensor = processor(images=picture, return_tensors="pt", **settings)["pixel_values"]
    return values


def _widened(picture: np.ndarray) -> np.ndarray:
    """Return a picture whose sides are within _MOST_NARROW of each other: of a strip, the processor would leave no
    pixels. Boxes are fractions, so they stay."""
    height, width = picture.shape[:2]
    if max(height, width) <= _MOST_NARROW * min(height, width):
        return picture
    long = min(max(height, width), _LONGEST_STRIP)
    size = (long, long // _MOST_NARROW) if width > height else (long // _MOST_NARROW, long)
    return np.asarray(Image.fromarray(picture).resize(size))


def _find_backbone(model: torch.nn.Module) -> torch.nn.Module | None:
    """The module whose output is the backbone's maps; None for YOLOS, which has none."""
    modules: dict[str, torch.nn.Module] = dict(model.named_modules())
    for ending in ("conv_encoder", "backbone"):  # where both are there, `backbone` joins maps and positions
        names = [name for name in modules if name.split(".")[-1] == ending]
        if names:
            return modules[min(names, key=len)]
    return None


def _feature_maps(output: Any) -> Iterator[Tensor]:
    """The tensors [1, C, h, w] in a module's output, in order."""
    if isinstance(output, Tensor):
        yield from [output] if output.ndim == 4 else []
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _feature_maps(part)


def _patch_map(states: Tensor, pixels: Tensor, config: Any) -> Tensor:
    """The patch states of YOLOS as a map [d, h, w]: of [CLS], patches and detection tokens."""
    if not hasattr(config, "num_detection_tokens"):
        raise InputError(f"no backbone is found in a {config.model_type}; use --features states")
    height, width = (side // config.patch_size for side in pixels.shape[2:])
    return states[1 : -config.num_detection_tokens].T.reshape(-1, height, width)


def _loaded(kind: Any, name: str, **settings: Any) -> Any:
    """What `kind` loads, without bars and warnings of transformers and the hub's client, which say it many times."""
    disabled, has_bars = logging.root.manager.disable, their_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    their_logging.disable_progress_bar()
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **settings)
    except Exception as error:  # of transformers, the hub's client, safetensors, pickle, or for a missing library
        raise InputError(f"{name} cannot be loaded as {kind.__name__}: {shared_steps.one_line(error)}") from None
    finally:
        logging.disable(disabled)
        if has_bars:
            their_logging.enable_progress_bar()
