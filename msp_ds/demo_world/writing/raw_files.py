"""All raw files of a world that grow with its images, as one context."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from msp_ds.demo_world.writing.question_writers import GqaWriter, StatementWriter, VqaWriter
from msp_ds.demo_world.writing.writers import CaptionsWriter, GenomeWriter, RegionsWriter


class RawFiles:
    """Writers of all the files; as a context it completes the files or, after an exception, abandons them."""

    def __init__(self, folder: Path) -> None:
        self.captions = CaptionsWriter(folder)
        self.genome = GenomeWriter(folder)
        self.regions = RegionsWriter(folder)
        self.vqa = VqaWriter(folder)
        self.gqa = GqaWriter(folder)
        self.statements = StatementWriter(folder)

    def __enter__(self) -> RawFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self.captions, self.genome, self.regions, self.vqa, self.gqa, self.statements):
            if error is None:
                writer.close()
            else:
                writer.abandon()
