"""Small grey pictures of images, and 64-bit hashes of them: what near duplicates are found by."""

from __future__ import annotations

import functools

import numpy as np

SIDE = 32
"""Side of a thumbnail in pixels: 1 KB an image"""
_LUMA = (0.299, 0.587, 0.114)
_CHUNK_BYTES = 16 << 20
_FLAT = 1.0
"""Grey levels by which neighbours must differ to count: noise in an even background must not choose the bits."""


def row_thumbnails(images: np.ndarray) -> np.ndarray:
    """Shrink decoded rows to grey thumbnails, each pixel the mean of the area that it covers.

    Args:
        images: uint8 [n, height, width, 3].

    Returns:
        uint8 [n, 32, 32].
    """
    count, height, width, _ = images.shape
    across = np.einsum("wo,c->wco", _area_weights(width, SIDE), np.array(_LUMA, np.float32)).reshape(width * 3, SIDE)
    down = _area_weights(height, SIDE).T  # [32, height]
    thumbnails = np.empty((count, SIDE, SIDE), np.uint8)
    step = max(1, _CHUNK_BYTES // (4 * height * width * 3))
    for start in range(0, count, step):
        rows = images[start : start + step].reshape(-1, height, width * 3).astype(np.float32)
        thumbnails[start : start + step] = np.rint(down @ (rows @ across))  # [step, 32, 32]
    return thumbnails


def difference_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Hash thumbnails so that images that look alike differ in few bits: is a pixel of the 9 x 8 picture lighter than its neighbour?

    This is dHash (Krawetz, "Kind of like that", 2013), with a threshold above noise.

    Args:
        thumbnails: uint8 [n, 32, 32].

    Returns:
        uint64 [n].
    """
    small = _area_weights(SIDE, 8).T @ thumbnails.astype(np.float32) @ _area_weights(SIDE, 9)  # [n, 8, 9]
    bits = (small[:, :, :-1] - small[:, :, 1:] > _FLAT).reshape(len(thumbnails), 64)
    return np.packbits(bits, axis=1).view(np.uint64).reshape(-1)


@functools.lru_cache(maxsize=16)
def _area_weights(size: int, target: int) -> np.ndarray:
    """Build the matrix [size, target] that averages `size` pixels into `target`, by how much of each a target pixel covers."""
    scale = size / target
    edges = np.arange(target + 1) * scale
    pixels = np.arange(size)[:, None]
    overlap = np.minimum(pixels + 1, edges[1:]) - np.maximum(pixels, edges[:-1])
    return np.asarray(np.maximum(overlap, 0.0) / scale, dtype=np.float32)
