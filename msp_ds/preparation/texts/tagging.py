"""The phrases of many images without those that hold a verb, found by several processes.

The tagger is plain Python, so threads would only wait for each other. A process of its own imports neither torch nor
what nltk takes along where it is installed: 60 to 70 MB instead of 300. It ends with its parent, however that ends.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice
from queue import SimpleQueue
from typing import NamedTuple

from msp_ds.errors import InputError
from msp_ds.preparation.texts.phrases import VerbFilter, normalise, noun_phrases, without_verbs

IMAGES_AT_ONCE = 256
"""Images that a process is sent at a time. As many or fewer in all are not worth one: it takes a second to start."""
_NEEDLESS = ("matplotlib", "numpy", "pandas", "scipy", "sklearn")
"""What nltk imports if it can, 170 MB; the tagger uses none of it."""


class ImageTexts(NamedTuple):
    """What the files say of an image."""

    phrases: list[str]
    captions: list[str]
    """To cut noun phrases from."""


class ImagePhrases(NamedTuple):
    """What is left of it."""

    phrases: list[str]
    """Those without a verb, then those cut from captions, normalised, each once."""
    num_read: int
    """Phrases that the files have of the image."""
    num_distinct: int
    """Different ones among them, once normalised."""
    num_kept: int
    """Of these without a verb."""
    num_cut: int
    """Cut from captions, repeats included."""


def phrases_of_images(images: Iterable[ImageTexts], *, jobs: int) -> Iterator[ImagePhrases]:
    """The phrases of each image in turn, the same for any number of `jobs`; few images are in memory at a time.

    Raises: InputError when a process ends early, as where memory runs out.
    """
    rest = iter(images)
    first = list(islice(rest, IMAGES_AT_ONCE))
    second = list(islice(rest, IMAGES_AT_ONCE))
    if not second:
        yield from _tag(first, VerbFilter()) if first else ()
        return
    with ExitStack() as stack:
        idle: SimpleQueue[_Process] = SimpleQueue()
        for _ in range(jobs):
            idle.put(stack.enter_context(_Process()))
        pool = stack.enter_context(ThreadPoolExecutor(jobs))

        def work(some: list[ImageTexts]) -> list[ImagePhrases]:
            process = idle.get()
            try:
                return process.tag(some)
            finally:
                idle.put(process)

        running: deque[Future[list[ImagePhrases]]] = deque()
        for some in chain([first, second], iter(lambda: list(islice(rest, IMAGES_AT_ONCE)), [])):
            running.append(pool.submit(work, some))
            if len(running) > 2 * jobs:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()


def serve() -> None:
    """What a process does: a line in, a line out, until the parent closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who then closes the pipe
    sys.modules.update(dict.fromkeys(_NEEDLESS))  # type: ignore[arg-type]  # None: as though it were not installed
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


class _Process:
    """A process that runs `serve`, as a context."""

    def __init__(self) -> None:
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        self._process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes the pipe and waits

    def tag(self, images: Sequence[ImageTexts]) -> list[ImagePhrases]:
        """What `_tag` gives. Raises: InputError when the process has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        answer = b""
        if stdin is not None and stdout is not None:
            try:
                stdin.write(json.dumps(images).encode() + b"\n")
                stdin.flush()
                answer = stdout.readline()
            except BrokenPipeError:
                answer = b""
        if not answer:
            raise InputError(
                f"a process that tags phrases has ended (exit code {self._process.wait()}), maybe for lack of memory; "
                "try fewer --jobs"
            )
        return [ImagePhrases(*image) for image in json.loads(answer)]
