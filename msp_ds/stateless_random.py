"""Counter-based random numbers: each is a pure function of (seed, epoch, key, purpose, position), without any state.

A mask depends on nothing else: not on the worker, the rank, the other pairs of the batch or the other tasks of the
stage. Ablations therefore see the same masks, a resumed run needs no generator state, and every device gives the same
numbers.

The generator is SplitMix64 (Steele, Lea, Flood 2014) in int64 arithmetic, which overflows equally on CPU and GPU.
"""

import hashlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB

# Strings that feed random numbers. They are frozen: another spelling would silently change masks, order, initial
# weights and dropout.
TOKEN_CHOSEN, TOKEN_FATE, TOKEN_REPLACEMENT = "token chosen", "token fate", "token replacement"
REGION_CHOSEN, REGION_FATE, RANDOM_REGION = "region chosen", "region fate", "stray region"
TRIPLET_CHOSEN, TRIPLET_ORDER = "triplet chosen", "triplet order"
IMAGE_REPLACEMENT, RETRIEVAL_QUADRUPLE = "image", "quadruple"
PAIR_ORDER, BATCH_ORDER, TAR_ORDER, SUBSET = "pair order", "batch order", "tar order {part}", "subset"
PAIR_KEY, HELD_OUT_IMAGE = "{image_id}\n{ordinal}\n{text}", "holdout\n{image_id}"
BACKBONE_WEIGHTS, STAGE_HEADS, IMPORTED_HEADS = "trunk {seed}", "heads {seed} {stage}", "heads {seed}"
HEAD_WEIGHTS, DROPOUT = "head {name} {seed}", "dropout {seed} {part} {step} {rank}"


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, which fills with zeros; torch's shift keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(x: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser to int64 `x` of any shape: a bijection whose output bits look independent."""
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def key_of(text: str) -> int:
    """Return a signed 64-bit key of a string (BLAKE2b), the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def hash64(*, seed: int, epoch: int, keys: Tensor, purpose: str) -> Tensor:
    """Return an int64 hash of each of int64 `keys`, any shape, chained over seed, epoch and purpose."""
    state = torch.full(
        (), key_of(purpose), dtype=torch.int64, device=keys.device
    )  # created on the device: the host does not wait for a copy
    for part in (seed, epoch):
        state = splitmix64(state ^ part)
    return splitmix64(state ^ splitmix64(keys))


def uniform(*, seed: int, epoch: int, keys: Tensor, purpose: str, n: int) -> Tensor:
    """Return numbers in [0, 1) of 24 bits, float32 [B, n], for int64 [B] `keys`; row i depends on keys[i] alone."""
    base = hash64(seed=seed, epoch=epoch, keys=keys, purpose=purpose)
    positions = torch.arange(n, dtype=torch.int64, device=keys.device)
    bits = splitmix64(base[:, None] + positions * _GOLDEN)
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24
