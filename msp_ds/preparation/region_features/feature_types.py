"""Infer the type of features from their raw bytes, where no file states it.

Features of one detector lie within a few powers of two of each other. When they are read as another type, bits of a
mantissa become bits of an exponent: float16 as float32 spreads over 8 times as many powers of two, and the halves of a
float32 as float16 over all there are. So the right type is the one whose exponents have the smallest spread.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

FeatureType = Literal["float16", "float32", "float64"]
FEATURE_TYPES: tuple[FeatureType, ...] = get_args(FeatureType)

_EXPONENTS = {"float16": ("<u2", 10, 0x1F), "float32": ("<u4", 23, 0xFF), "float64": ("<u8", 52, 0x7FF)}
"""Type -> an integer type of its size, the shift and the mask of the exponent's bits."""
_WIDEST_SPREAD = 8.0
"""Standard deviation of the exponents, in powers of two, beyond which no numbers are features: they have 1 to 3."""
_HALF_LARGEST = 65504


def possible_types(data: bytes, *, least_numbers: int = 4) -> tuple[FeatureType, ...]:
    """Return the possible types of raw little-endian features.

    There are several where the data are ambiguous, as with fewer than `least_numbers` nonzero numbers, and none where
    the data are not finite features in any type.
    """
    spreads = {kind: spread for kind in FEATURE_TYPES if (spread := _spread(data, kind)) <= _WIDEST_SPREAD}
    least = min(spreads.values(), default=0.0)
    close: list[FeatureType] = [kind for kind, spread in spreads.items() if spread <= 1.5 * least + 0.5]
    if close == ["float32", "float64"]:  # equal float32 in pairs are equal float64, but not the other way round
        close = ["float32"]
    if len(close) == 1 and np.count_nonzero(np.frombuffer(data, close[0])) < least_numbers:
        return tuple(kind for kind in FEATURE_TYPES if len(data) % np.dtype(kind).itemsize == 0)
    return tuple(close)


def types_of_rows(rows: Iterable[bytes]) -> tuple[FeatureType, ...]:
    """Return the unambiguous type of most rows, some of which may be damaged, or the possible types of the first."""
    candidates = [kinds for kinds in map(possible_types, rows) if kinds]
    clear = Counter(kinds for kinds in candidates if len(kinds) == 1).most_common(1)
    return clear[0][0] if clear else candidates[0] if candidates else ()


def _spread(data: bytes, kind: FeatureType) -> float:
    """Return the standard deviation of the exponents of `data` as `kind`; infinite where `kind` is impossible."""
    integer, shift, mask = _EXPONENTS[kind]
    if len(data) % np.dtype(kind).itemsize:
        return np.inf
    values, bits = np.frombuffer(data, np.dtype(kind).newbyteorder("<")), np.frombuffer(data, integer)
    with np.errstate(invalid="ignore"):
        if not (np.abs(values) <= _HALF_LARGEST).all():
            return np.inf
    if len(values) % 2 == 0 and kind != "float64" and not values[::2].any() and values.any():
        return np.inf  # the lower halves of wider numbers of few digits
    exponents = (bits[values != 0] >> np.array(shift, integer)) & np.array(mask, integer)
    return float(exponents.astype(np.float64).std()) if exponents.size else 0.0
