"""Ranks' gradients become their means, in any order and also where a rank lacks one."""

from __future__ import annotations

import multiprocessing
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from msp_ds.training.engine.gradient_average import SMALL, GradientAverage


class Branches(nn.Module):
    """Three large weights, one of them tied to two uses, and a small one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = (nn.Parameter(torch.zeros(SMALL)) for _ in range(3))
        self.small = nn.Parameter(torch.zeros(3))

    def loss(self, factor: float, *, second_last: bool, second: bool = True) -> Tensor:
        """Gradients: first 3 x factor (two uses), second 5 x factor, small factor; in one order or the other."""
        one = factor * self.first.sum() + 2 * factor * self.first.sum()
        other = 5 * factor * self.second.sum() if second else torch.zeros(())
        both = (one, other) if second_last else (other, one)
        return both[0] + both[1] + factor * self.small.sum()


def on_a_rank(rank: int, store: str, answers: Any) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2, timeout=timedelta(0, 60))
    module, ends = Branches(), [True]
    average = GradientAverage(module, dist.group.WORLD, ends_step=lambda: ends[0])

    def gradients() -> dict[str, list[float]]:
        found = {name: one.grad for name, one in module.named_parameters() if one.grad is not None}
        module.zero_grad(set_to_none=True)
        return {name: sorted(set(gradient.tolist())) for name, gradient in found.items()}

    seen = []
    module.loss(1.0 + rank, second_last=rank == 0).backward()  # ranks' gradients come in different orders
    average.finish()
    seen.append(gradients())
    module.loss(1.0 + rank, second_last=True, second=rank == 0).backward()  # one rank lacks one
    average.finish()
    seen.append(gradients())
    ends[0] = False  # two micro batches
    module.loss(1.0 + rank, second_last=True).backward()
    ends[0] = True
    module.loss(10.0, second_last=True).backward()
    average.finish()
    seen.append(gradients())
    average.close()
    module.loss(1.0 + rank, second_last=True).backward()
    seen.append(gradients())
    answers.put((rank, seen))
    dist.destroy_process_group()


def test_gradients_become_their_means(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.SimpleQueue()
    ranks = [spawn.Process(target=on_a_rank, args=(rank, str(tmp_path / "store"), answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    seen = dict(answers.get() for _ in ranks)
    for process in ranks:
        process.join()
    # The factors 1 and 2 have the mean 1.5, plus 10 of a micro batch 11.5; 2.5 is the mean of 5 and nothing.
    # `unused` has no gradient on any rank, so it stays without one, as with one rank.
    assert seen[0][0] == seen[1][0] == {"first": [4.5], "second": [7.5], "small": [1.5]}
    assert seen[0][1] == seen[1][1] == {"first": [4.5], "second": [2.5], "small": [1.5]}
    assert seen[0][2] == seen[1][2] == {"first": [34.5], "second": [57.5], "small": [11.5]}
    assert seen[0][3] == {"first": [3.0], "second": [5.0], "small": [1.0]}
    assert seen[1][3] == {"first": [6.0], "second": [10.0], "small": [2.0]}
