"""TensorBoard's event files, written so that a full disk does not end the run.

TensorBoard's own writer has a thread that ends at the first write that fails; every later call raises.
"""

import logging
import os
import socket
import time
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.writer import FileWriter

log = logging.getLogger(__name__)

_VERSION = "brain.Event:2"


class EventFile:
    """The file behind torch's FileWriter. After a failed write it drops events: no reader goes past a torn record."""

    def __init__(self, folder: Path) -> None:
        """Open a new file in `folder`, which is created if it is missing."""
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._path = folder / name
        self._file: BufferedWriter | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        except OSError as error:
            self._give_up(error)

    def add_event(self, event: Event) -> None:
        """Write an event; it is in the file when this returns."""
        if self._file is None:
            return
        try:
            RecordWriter(self._file).write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def flush(self) -> None:
        """Do nothing: no event is buffered."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # some network disks report only here that they are full
                self._file.close()
            self._file = None

    def _give_up(self, error: OSError) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.raw.close()  # not file.close(), which would try to write the buffer again
        log.warning(
            "%s cannot be written (%s); training goes on without its curves until it is resumed",
            *(self._path, error.strerror),
        )


class Curves(SummaryWriter):
    """torch's SummaryWriter on an EventFile."""

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        """purge_step: TensorBoard hides this and later steps of earlier files in the folder."""
        super().__init__(str(folder), purge_step=purge_step)

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            writer: Any = FileWriter.__new__(FileWriter)
            writer.event_writer = EventFile(Path(self.log_dir))
            writer.add_event(Event(file_version=_VERSION))
            for event in (Event(file_version=_VERSION), Event(session_log=SessionLog(status=SessionLog.START))):
                writer.add_event(event, step=self.purge_step)
            self.file_writer, self.all_writers = writer, {self.log_dir: writer}  # type: ignore[assignment]
        return self.file_writer
