"""Exact nearest neighbours, against scikit-learn's tree and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import BallTree

from msp_ds.demo_world import nearest
from msp_ds.demo_world.nearest import NearestRows, faster_products, nearest_rows


def image_means(rows: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Non-negative, in clusters, far from the origin: as the mean of features after a ReLU."""
    generator = np.random.default_rng(seed)
    clusters = generator.random((20, width)) * 0.3 + 0.5
    spread = generator.standard_normal((rows, width)) * 0.1
    return np.maximum(clusters[generator.integers(20, size=rows)] + spread, 0).astype(np.float32)


def tree_neighbours(means: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the nearest others, by scikit-learn."""
    distances, rows = BallTree(means.astype(np.float64)).query(means.astype(np.float64), k=count + 1)
    assert (rows[:, 0] == np.arange(len(means))).all()
    return distances[:, 1:], rows[:, 1:]


PRODUCTS = pytest.mark.parametrize("products", [torch.float32, torch.bfloat16], ids=str)


@PRODUCTS
def test_two_thousand_images_have_the_neighbours_that_scikit_learn_finds(products: torch.dtype) -> None:
    means = image_means(2000, 128)
    distances, expected = tree_neighbours(means, count=100)
    assert (np.diff(distances, axis=1) > 1e-12).all(), "the comparison needs distinct distances"
    np.testing.assert_array_equal(nearest_rows(means, count=100, products=products), expected)


@PRODUCTS
def test_rows_far_from_the_origin_and_close_together_are_ordered_exactly(products: torch.dtype) -> None:
    # In float32 their products lose all of the difference: 1e4 ** 2 * 8 + 1e-6 is 1e4 ** 2 * 8.
    means = (1e4 + np.random.default_rng(1).integers(0, 50, (300, 8)) / 1024).astype(np.float32)
    gaps = means[:, None].astype(np.float64) - means[None]
    squares = (gaps**2).sum(-1)
    np.fill_diagonal(squares, np.inf)
    expected = np.argsort(squares, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(nearest_rows(means, count=20, products=products), expected)


@PRODUCTS
def test_of_equal_distances_the_lower_row_comes_first_also_beyond_the_spare_candidates(products: torch.dtype) -> None:
    # Row 0 is at 0, all others at 1 or, from row 150 on, at -1: 199 equal distances.
    means = np.array([[0.0]] + [[1.0]] * 149 + [[-1.0]] * 50, np.float32)
    found = nearest_rows(means, count=5, products=products)
    assert found[0].tolist() == [1, 2, 3, 4, 5]
    assert found[1].tolist() == [2, 3, 4, 5, 6]
    assert found[199].tolist() == [150, 151, 152, 153, 154]
    assert found.dtype == np.int32


def test_blocks_and_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    means = image_means(300, 32)
    whole = nearest_rows(means, count=10)
    monkeypatch.setattr(nearest, "_BLOCK_CELLS", 300 * 7)
    monkeypatch.setattr(nearest, "_CHUNK_CELLS", 32 * 11)
    assert NearestRows(means, count=10).blocks()[-1] == (294, 300)
    np.testing.assert_array_equal(nearest_rows(means, count=10), whole)


def test_one_far_row_widens_the_bound_without_errors() -> None:
    # With the far row the bfloat16 products of the others are pure noise, so all must be measured.
    means = np.concatenate([image_means(400, 16), np.full((1, 16), 1e5, np.float32)])
    coarse, fine = (nearest_rows(means, count=10, products=products) for products in (torch.bfloat16, torch.float32))
    np.testing.assert_array_equal(coarse[:-1], tree_neighbours(means[:-1], count=10)[1])
    np.testing.assert_array_equal(coarse, fine)


def test_the_faster_type_is_one_of_the_two_that_are_bounded() -> None:
    assert faster_products() in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(("rows", "count", "width"), [(1, 5, 0), (2, 5, 1), (4, 2, 2), (3, 0, 0)])
def test_there_are_never_more_neighbours_than_others(rows: int, count: int, width: int) -> None:
    found = nearest_rows(image_means(rows, 4), count=count)
    assert found.shape == (rows, width)
    assert all(row not in line for row, line in enumerate(found.tolist()))
