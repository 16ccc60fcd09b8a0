"""Region features that carry category, colour, size and theme, but give none of them away in a single dimension.

A feature is 0.32 * max(z, 0) ** 3, where z mixes dense random prototypes with noise and is about normal with mean 0.43
and variance 1. That gives what pooled CNN features have: a third exact zeros, a mean of 0.6, a maximum of 10 to 35.
"""

import numpy as np

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.detector import Detections
from msp_ds.demo_world.random_stream import stream
from msp_ds.demo_world.scenes import Scene

_MEAN, _SCALE = 0.43, 0.32

# Fractions of the variance of z; they add up to 1.
_COMMON, _CATEGORY, _COLOUR, _STATE = 0.20, 0.30, 0.16, 0.04
_SIZE, _THEME, _INSTANCE, _DETECTION = 0.02, 0.04, 0.12, 0.12

_OWNER = 0.5  # weight of its owner's category in the feature of a part


class Appearance:
    """The prototypes of a world: what each category, colour, state, size and theme adds to z."""

    def __init__(self, seed: int, *, feature_width: int) -> None:
        self._seed = seed
        self._width = feature_width
        self._generator = stream(seed, 0, "world")
        self._common = _MEAN + self._draw(1, _COMMON)[0]
        # The last row of each table is zero: number -1 points to it.
        self._categories = self._draw_with_zero_row(len(vocabulary.CATEGORIES), _CATEGORY)
        self._colours = self._draw(len(vocabulary.COLOURS), _COLOUR)
        self._attributes = self._draw_with_zero_row(len(vocabulary.ATTRIBUTES), _STATE)
        self._themes = self._draw(len(vocabulary.THEMES), _THEME)
        self._size = self._draw(1, _SIZE)[0]

    def features(self, scene: Scene, detections: Detections) -> np.ndarray:
        """Return float32 [36, feature_width], one feature a detection."""
        generator = stream(self._seed, scene.number, "features")
        z = self._noise(generator, len(detections.entity_rows), _DETECTION)
        z += self._entities(scene, detections, generator)[detections.entity_rows]
        np.maximum(z, 0, out=z)
        features: np.ndarray = z * z
        features *= z
        features *= np.float32(_SCALE)
        return features

    def _entities(self, scene: Scene, detections: Detections, generator: np.random.Generator) -> np.ndarray:
        """Return z of each entity before the noise of a detection, float32 [E, feature_width]."""
        numbers = np.array([(e.category, e.colour, e.state, e.size, e.owner) for e in detections.entities])
        z = self._noise(generator, len(numbers), _INSTANCE)
        z += self._common + self._themes[scene.theme.number]
        z += self._categories[numbers[:, 0]]
        z += self._colours[numbers[:, 1]]
        z += self._attributes[numbers[:, 2]]
        z += numbers[:, 3, None].astype(np.float32) * self._size
        z += np.float32(_OWNER) * self._categories[numbers[:, 4]]
        return z

    def _noise(self, generator: np.random.Generator, n: int, variance: float) -> np.ndarray:
        """Return float32 [n, feature_width]: uniform noise, four times as fast as normal and as good in a sum."""
        noise: np.ndarray = generator.random((n, self._width), dtype=np.float32)
        noise -= np.float32(0.5)
        noise *= np.float32((12 * variance) ** 0.5)
        return noise

    def _draw(self, n: int, variance: float) -> np.ndarray:
        drawn: np.ndarray = self._generator.standard_normal((n, self._width), dtype=np.float32)
        drawn *= np.float32(variance**0.5)
        return drawn

    def _draw_with_zero_row(self, n: int, variance: float) -> np.ndarray:
        return np.concatenate([self._draw(n, variance), np.zeros((1, self._width), np.float32)])
