"""Multi-stage pre-training of small vision-language models; as a library, `msp_ds.load` gives a model to ask.

    model = msp_ds.load("runs/tps", shards="shards/sentence/val")
    model.score(["a red bus near a tree"], model.image_ids)

Importing the package imports nothing else: torch comes with the first `load`.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msp_ds.library import Model
    from msp_ds.regions.detector import Detector

__all__ = ["__version__", "load"]

__version__: str
"""The version of the installation, as pyproject.toml has it."""


def load(
    checkpoint: str | PathLike[str],
    *,
    shards: str | PathLike[str] | None = None,
    detector: str | PathLike[str] | Detector | None = None,
    device: str | None = None,
    cache: str | PathLike[str] | None = None,
) -> Model:
    """The model of a run, a checkpoint or a weights folder, which can be asked about images of a set and picture files.

    checkpoint: as runs/tps. shards: a set's folder, as shards/sentence/val; by default one that the run was trained
    for, and none for a weights folder, whose word pieces and answers lie in it. detector: its name or folder, or one in
    memory, for picture files; by default the one on record. device: of torch; by default the GPU where there is one,
    CUDA's or Apple's (MPS, untried). cache: folder that keeps the regions of picture files, by default ~/.cache/msp-ds.
    Raises InputError, a ValueError whose one line says how to fix it, for what does not fit.
    """
    from msp_ds.library import Model

    return Model.load(checkpoint, shards=shards, detector=detector, device=device, cache=cache)


if not TYPE_CHECKING:  # a type checker would take any name for one of this module

    def __getattr__(name: str) -> str:
        """Look `__version__` up when it is asked for: importing the package does not read its metadata."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("msp-ds")
