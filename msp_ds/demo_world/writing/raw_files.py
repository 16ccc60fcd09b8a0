"""All the raw files of a world that grow with its images."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from msp_ds.demo_world.writing.question_writers import QuestionFiles
from msp_ds.demo_world.writing.writers import CaptionsWriter, GenomeWriter, RegionsWriter


class RawFiles:
    """All the files that grow with the images; a context that closes them whole or, after a fault, abandons them."""

    def __init__(self, folder: Path) -> None:
        self.captions = CaptionsWriter(folder)
        self.genome = GenomeWriter(folder)
        self.regions = RegionsWriter(folder)
        self.questions = QuestionFiles(folder)

    def __enter__(self) -> RawFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self.captions, self.genome, self.regions, self.questions):
            if error is None:
                writer.close()
            else:
                writer.abandon()
