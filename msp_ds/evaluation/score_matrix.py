"""A retrieval score matrix with the ids of its images and captions, as an .npz file.

`scores` float32 [N, M], higher fits better; `image_ids` text [N], canonical; `caption_keys` int64 [M];
`image_of_caption` int64 [M], the row of each caption's image.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msp_ds.errors import InputError, writing
from msp_ds.storage.array_files import load_arrays
from msp_ds.storage.atomic_files import write_atomically

_KEYS = ("scores", "image_ids", "caption_keys", "image_of_caption")
_NAME = f"a score matrix, .npz with {', '.join(_KEYS)}"


@dataclass(frozen=True, kw_only=True)
class ScoreMatrix:
    """Scores of every image against every caption."""

    scores: Tensor
    """float32 [N, M]."""
    image_ids: tuple[str, ...]
    caption_keys: Tensor
    """int64 [M]: number of each caption's pair in the shard set."""
    image_of_caption: Tensor
    """int64 [M]."""

    def __post_init__(self) -> None:
        num_images, num_captions = self.scores.shape if self.scores.ndim == 2 else (-1, -1)
        lengths = (len(self.image_ids), len(self.caption_keys), len(self.image_of_caption))
        if lengths != (num_images, num_captions, num_captions):
            raise InputError(
                f"scores of shape {tuple(self.scores.shape)} do not fit {lengths[0]} images and {lengths[1]} captions "
                f"of which {lengths[2]} have an image"
            )

    def write(self, path: Path) -> None:
        """Write the file atomically. Raises: InputError when it cannot be written."""
        packed = io.BytesIO()
        np.savez(
            packed,
            scores=self.scores.numpy(),
            image_ids=np.array(self.image_ids),
            caption_keys=self.caption_keys.numpy(),
            image_of_caption=self.image_of_caption.numpy(),
        )
        with writing(path, fix="name another file"):
            write_atomically(path, packed.getvalue())


def read_score_matrix(path: Path) -> ScoreMatrix:
    """Read a matrix. Raises: InputError when the file is missing or damaged, or its parts do not fit."""
    parts = load_arrays(path, _KEYS, what=_NAME)
    try:
        return ScoreMatrix(
            scores=torch.from_numpy(parts["scores"].astype(np.float32)),
            image_ids=tuple(parts["image_ids"].astype(str).tolist()),
            caption_keys=torch.from_numpy(parts["caption_keys"].astype(np.int64)),
            image_of_caption=torch.from_numpy(parts["image_of_caption"].astype(np.int64)),
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
