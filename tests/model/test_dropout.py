"""Dropout zeroes values with probability p and scales the others; attention is torch's but for the random mask."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny import rng
from torch import Tensor
from torch.nn import functional as F

from msp_ds.model import dropout
from msp_ds.model.dropout import Dropout, attend, dropout_mask

KINDS = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_values_are_zero_with_probability_p_and_the_others_are_scaled(p: float) -> None:
    torch.manual_seed(0)
    values = torch.ones(401, 250)
    thin = Dropout(p)(values)
    zeros = (thin == 0).double().mean().item()
    assert zeros == pytest.approx(p, abs=0.005)  # five standard deviations are below 0.008 / 2 ** 0.5
    assert thin.max().item() == pytest.approx(1 / (1 - p), rel=2e-4)
    assert thin.mean().item() == pytest.approx(1, abs=0.02)


def test_neighbours_drop_out_apart() -> None:
    torch.manual_seed(0)
    out = dropout_mask(torch.ones(100_000), 0.5).double() - 0.5
    for distance in (1, 2, 3, 4, 5, 8):
        assert abs((out[distance:] * out[:-distance]).mean().item()) < 0.25 * 0.015  # five standard deviations


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_drop_out_with_their_values(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(7, 9, dtype=kind, requires_grad=True)
    thin = Dropout(0.3)(values)
    thin.sum().backward()
    assert thin.dtype == kind
    assert torch.equal(values.grad, thin)
    assert 0 < int((thin == 0).sum()) < 63


def test_the_seed_decides() -> None:
    values, layer = torch.ones(40), Dropout(0.5)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(layer(values))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_nothing_drops_out_in_evaluation_or_with_probability_zero() -> None:
    values = torch.ones(1000)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0)(values) is values


def test_of_nothing_nothing_drops_out() -> None:
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)


def test_the_mask_is_kept_in_bytes() -> None:
    kept = []
    values = torch.ones(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda one: one):
        Dropout(0.5)(values)
    assert kept == [1000]


def states(kind: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two sequences, three heads, four queries and five memories of width six; the second sees nothing."""
    query, key, value = (torch.randn(2, 3, n, 6, generator=rng(n)).to(kind).requires_grad_() for n in (4, 5, 5))
    return query, key, value, torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()[:, None, None]


def assert_alike(found: Tensor, wanted: Tensor, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Two results, the second zero where nothing is seen, and the gradients of what each was made from."""
    torch.testing.assert_close(found, wanted)
    assert not found[1].any()
    for end in (found, wanted):
        end.sin().sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_attention_with_dropout_is_torchs_but_for_the_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout, "dropout_mask", lambda values, p: torch.zeros_like(values, dtype=torch.bool))
    *ours, mask = states()
    *theirs, _ = states()
    found = attend(*ours, mask, dropout=0.5)
    wanted = 2 * F.scaled_dot_product_attention(*theirs, attn_mask=mask)
    assert_alike(found, wanted, ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_weights_drop_out_and_padding_is_never_seen(kind: torch.dtype) -> None:
    torch.manual_seed(3)
    query, key, value, mask = states(kind)
    with torch.no_grad():
        value[:, :, 3:] = torch.inf
    hidden = torch.where(mask.transpose(-1, -2), value, 0.0)
    seen = attend(query, key, hidden, mask, dropout=0.5)
    assert seen.dtype == kind
    assert seen.isfinite().all()
    again = attend(query, key, hidden, mask, dropout=0.5)
    assert not torch.equal(seen, again)


def test_without_dropout_attention_is_torchs() -> None:
    *ours, mask = states()
    *theirs, _ = states()
    found, wanted = attend(*ours, mask, dropout=0.0), F.scaled_dot_product_attention(*theirs, attn_mask=mask)
    assert_alike(found, wanted, ours, theirs)
    with torch.no_grad():
        assert torch.equal(attend(*ours, mask, dropout=0.0), wanted)
