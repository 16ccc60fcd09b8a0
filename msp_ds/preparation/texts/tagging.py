"""Filter the phrases of many images for those without a verb, in several processes.

The tagger is plain Python, so threads would only wait for each other. Each thread of the pool sends its images to a
process through a pipe. Such a process imports neither torch nor the optional imports of nltk: 60 to 70 MB. (Those of
ProcessPoolExecutor import the main module of their parent, 230 MB for the command line.) It ends when the pipe is
closed, and so with its parent even if that is killed.
"""

import json
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import chain, islice
from queue import SimpleQueue
from typing import NamedTuple

from msp_ds.errors import InputError
from msp_ds.preparation.texts.phrases import VerbFilter, normalise, noun_phrases, without_verbs

IMAGES_AT_ONCE = 256
"""Images in a batch. A single batch is tagged in this process: another one would take a second to start."""
_NOT_NEEDED = ("matplotlib", "numpy", "pandas", "scipy", "sklearn")
"""Optional imports of nltk, 170 MB, which the tagger does not use."""


class ImageTexts(NamedTuple):
    """The texts of an image in the files."""

    phrases: list[str]
    captions: list[str]
    """Captions to cut noun phrases from."""


class ImagePhrases(NamedTuple):
    """The phrases of an image after filtering."""

    phrases: list[str]
    """Phrases without a verb, then those cut from captions, normalised, each once."""
    num_read: int
    """Phrases in the files."""
    num_distinct: int
    """Distinct normalised phrases among them."""
    num_kept: int
    """Distinct phrases without a verb."""
    num_cut: int
    """Phrases cut from captions, repeats included."""


def phrases_of_images(images: Iterable[ImageTexts], *, jobs: int) -> Iterator[ImagePhrases]:
    """Yield the phrases of each image in order, the same for any number of `jobs`; few images are in memory at a time.

    Raises: InputError when a process ends early, as where memory runs out.
    """
    rest = iter(images)
    first = list(islice(rest, IMAGES_AT_ONCE))
    second = list(islice(rest, IMAGES_AT_ONCE))
    if not second:
        yield from _tag(first, VerbFilter()) if first else ()
        return
    with ExitStack() as stack:
        idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for _ in range(jobs):
            process = _start_process()
            stack.callback(process.communicate)  # closes the pipe and waits
            idle.put(process)
        pool = stack.enter_context(ThreadPoolExecutor(jobs))

        def tag(batch: list[ImageTexts]) -> list[ImagePhrases]:
            own = idle.get()
            try:
                return _tag_in(own, batch)
            finally:
                idle.put(own)

        running: deque[Future[list[ImagePhrases]]] = deque()
        for batch in chain([first, second], iter(lambda: list(islice(rest, IMAGES_AT_ONCE)), [])):
            running.append(pool.submit(tag, batch))
            if len(running) > 2 * jobs:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()


def serve() -> None:
    """Answer each batch of images on stdin, a line of JSON, with a line on stdout, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which then closes the pipe
    sys.modules.update(dict.fromkeys(_NOT_NEEDED))  # type: ignore[arg-type]  # None: as if it were not installed
    verbs = VerbFilter()
    for line in sys.stdin.buffer:
        answer = _tag([ImageTexts(*image) for image in json.loads(line)], verbs)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _tag(images: Sequence[ImageTexts], verbs: VerbFilter) -> list[ImagePhrases]:
    answer = []
    for phrases, captions in images:
        kept = without_verbs(phrases, verbs)
        cut = [phrase for caption in captions for phrase in noun_phrases(caption, verbs)]
        both = list(dict.fromkeys([*kept, *cut]))
        num_distinct = len({normalise(phrase) for phrase in phrases})
        answer.append(ImagePhrases(both, len(phrases), num_distinct, len(kept), len(cut)))
    return answer


def _start_process() -> subprocess.Popen[bytes]:
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _tag_in(process: subprocess.Popen[bytes], images: Sequence[ImageTexts]) -> list[ImagePhrases]:
    """Return the result of `_tag` from a process. Raises: InputError when the process has ended."""
    answer = b""
    if process.stdin is not None and process.stdout is not None:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(images).encode() + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
    if not answer:
        raise InputError(
            f"a process that tags phrases has ended (exit code {process.wait()}), maybe for lack of memory; "
            "try fewer --jobs"
        )
    return [ImagePhrases(*image) for image in json.loads(answer)]
