"""Look-alikes: a hash of 64 signs of a cosine transform, pairs of near hashes, and a second look at thumbnails.

A hash alone calls too many small pictures alike, so that a pair counts only if its thumbnails correlate, too. A mirrored
picture is no look-alike: half of the signs turn. Legend: N pictures, B of a chunk, P pairs.
"""

import math
from collections.abc import Iterator

import numpy as np

SIDE = 32  #: pixels of the squeezed picture that the hash looks at
_HALF = SIDE // 2
THUMB = _HALF * _HALF  #: bytes of a thumbnail, gray
ALIKE = 0.9  #: correlation of two thumbnails from which on they show the same
FLAT = 3.0  #: deviation of a thumbnail in grey levels below which its signs are noise
PARTNERS = 64  #: of a picture, of which there may be more where there are as many
_BLOCKS, _BITS = 4, 16  # a pair within 7 bits differs in at most one bit of one of 4 blocks
_WINDOW = 512  # pictures that a look-up compares one with, at most
_CANDIDATES = 1 << 21  # pairs looked at at a time
_PIECE = 1 << 14  # thumbnails compared at a time
_COSINES = np.cos(math.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(9)[:, None]).astype(np.float32)  # (9, SIDE)


def hashes(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, SIDE, SIDE, 3) uint8 -> hashes (B,) uint64 and gray thumbnails (B, THUMB) uint8.

    Bits: the signs of the 64 cosine coefficients of lowest frequency, row by row, but for the mean.
    """
    gray = tiles.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    waves = _COSINES @ gray @ _COSINES[:8].T  # (B, 9, 8)
    bits = waves.reshape(len(tiles), 72)[:, 1:65] > 0
    thumbs = gray.reshape(len(tiles), _HALF, 2, _HALF, 2).mean((2, 4)).reshape(len(tiles), THUMB)
    return np.packbits(bits, 1).view(np.uint64)[:, 0], thumbs.round().astype(np.uint8)


def ones(x: np.ndarray) -> np.ndarray:
    """Bits that are set in each uint64."""
    if hasattr(np, "bitwise_count"):  # since numpy 2
        return np.bitwise_count(x)
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


def pairs(
    hash_: np.ndarray, thumbs: np.ndarray, most: int, side: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of look-alikes: (P, 2) ascending rows, and the bits (P,) in which their hashes differ.

    A pair is left out if both of its pictures have many partners already, so that thousands of frames of one scene stay
    affordable; those on the own side and those on the other are counted apart.

    Args:
        hash_: (N,) uint64.
        thumbs: (N, THUMB) uint8; flat ones have no look-alikes.
        most: bits that may differ, at most 7.
        side: (N,) such as training and test.
    """
    rows = np.flatnonzero(_deviation(thumbs) >= FLAT)
    side = np.zeros(len(hash_)) if side is None else side
    partners = np.zeros((2, len(hash_)), np.int64)
    found: list[np.ndarray] = [np.empty((0, 2), np.int64)]
    for i, j in _candidates(hash_[rows]):
        i, j = rows[i], rows[j]
        close = ones(hash_[i] ^ hash_[j]) <= most
        near = np.stack([i[close], j[close]], 1)
        across = side[near[:, 0]] != side[near[:, 1]]
        for count, some in ((partners[0], near[~across]), (partners[1], near[across])):
            few = _first_partners(some[(count[some] < PARTNERS).any(1)])
            alike = _alike(thumbs, few)
            np.add.at(count, alike.reshape(-1), 1)
            found.append(alike)
    together = np.unique(np.sort(np.concatenate(found), 1), axis=0)
    return together, ones(hash_[together[:, 0]] ^ hash_[together[:, 1]]).astype(np.int64)


def _first_partners(some: np.ndarray) -> np.ndarray:
    """At most PARTNERS of the (P, 2) pairs of each first row; those of a row lie together."""
    starts = np.flatnonzero(np.diff(some[:, 0], prepend=-1))
    rank = np.arange(len(some)) - np.repeat(starts, np.diff(starts, append=len(some)))
    return some[rank < PARTNERS]


def _deviation(thumbs: np.ndarray) -> np.ndarray:
    """(N,) deviation of each thumbnail in grey levels."""
    parts = [thumbs[i : i + _PIECE].astype(np.float32).std(1) for i in range(0, len(thumbs), _PIECE)]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _candidates(hash_: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows (i, j) that share a block of bits but for one bit at most; each pair at least once if they are few."""
    for block in range(_BLOCKS):
        key = (hash_ >> np.uint64(block * _BITS)) & np.uint64((1 << _BITS) - 1)
        order = np.lexsort((hash_, key))
        key = key[order]
        place = np.arange(len(key))
        for flip in (0, *(1 << bit for bit in range(_BITS))):
            wanted = key ^ np.uint64(flip)
            # of two keys that differ in the bit, the smaller one looks for the larger: each pair once
            first = place + 1 if not flip else np.searchsorted(key, wanted, "left")
            last = np.searchsorted(key, wanted, "right")
            count = np.where(wanted >= key, np.clip(last - first, 0, _WINDOW), 0)
            for some in _pieces(count):
                n = count[some]
                i = np.repeat(place[some], n)
                j = np.repeat(first[some] - (n.cumsum() - n), n) + np.arange(len(i))
                yield order[i], order[j]


def _pieces(count: np.ndarray) -> Iterator[slice]:
    """Consecutive slices of at most _CANDIDATES pairs each."""
    total = count.cumsum()
    start = 0
    while start < len(count):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + _CANDIDATES, "right")))
        yield slice(start, stop)
        start = stop


def _alike(thumbs: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The (P, 2) candidates whose thumbnails correlate."""
    kept = []
    for start in range(0, len(candidates), _PIECE):
        some = candidates[start : start + _PIECE]
        a, b = (thumbs[some[:, side]].astype(np.float32) for side in (0, 1))
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        cosine = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
        kept.append(some[cosine >= ALIKE])
    return np.concatenate(kept) if kept else np.empty((0, 2), np.int64)
