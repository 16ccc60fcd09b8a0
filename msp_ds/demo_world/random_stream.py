"""Random numbers of the demo world: one stream for each image and purpose, so that no image depends on another."""

import functools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Literal, TypeVar, get_args

import numpy as np

T = TypeVar("T")

Purpose = Literal[
    "scene", "detections", "features", "captions", "phrases", "twin", "world", "questions", "answers", "statements"
]
_PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def stream(seed: int, number: int, purpose: Purpose) -> np.random.Generator:
    """Return the generator of one image (of the world: number 0) for one purpose: Philox, keyed by all three."""
    key = np.array([seed, number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, _PURPOSES.index(purpose)]))


class RandomStream:
    """Scalar draws from one stream, in blocks: numpy's own would take most of the time of a scene."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._next = _numbers(generator).__next__

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self._next()

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self._next() < probability

    def below(self, n: int) -> int:
        """Return a uniform integer from 0 to n - 1."""
        return int(self._next() * n)

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items, each with the same probability."""
        return items[int(self._next() * len(items))]

    def rank(self, n: int) -> int:
        """Return an integer from 0 to n - 1 with a long tail: k has weight 1 / (k + 2)."""
        return min(bisect_right(_long_tail(n), self._next()), n - 1)

    def some(self, items: Sequence[T], n: int) -> list[T]:
        """Return n different items (all, if fewer) in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(n, len(left)))]


def _numbers(generator: np.random.Generator) -> Iterator[float]:
    while True:
        yield from generator.random(256).tolist()


@functools.cache
def _long_tail(n: int) -> list[float]:
    weights = list(accumulate(1.0 / (k + 2) for k in range(n)))
    return [weight / weights[-1] for weight in weights]
