"""Sets of permutations that differ much from each other: the classes of jigsaw puzzles.

Groups of maps on a finite field that number the tiles give the best sets, without a search; a greedy choice gives any
number of permutations (arXiv 1603.09246, algorithm 1). Legend: P permutations, n tiles, q elements of a field.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from selfsight.errors import WrongUse

Kind = Literal["algebraic", "greedy-min", "greedy-mean"]
# Fields GF(p ** n): p, and x ** n as a polynomial of lower degree, lowest coefficient first.
_FIELDS = {4: (2, (1, 1)), 8: (2, (1, 1, 0)), 9: (3, (2, 0)), 16: (2, (1, 1, 0, 0))}
_ALL = 9  # tiles of which every permutation is a candidate
_SAMPLED = 1 << 18  # candidates for more tiles


def permutations(tiles: int = 9, count: int = 100, kind: Kind = "algebraic", seed: int = 0) -> Tensor:
    """Distinct permutations of the tiles 0..n-1 with large Hamming distances, (P, n) int64.

    algebraic: minimum distance 8 for up to 72 permutations of 9 tiles, 7 up to 504, 6 up to 1512; 3 for up to 12 of 4
    tiles, 2 for all 24; 15 for up to 240 of 16 tiles, 12 up to 960. Each run of n has every tile once in each place.
    greedy-min: each next one has the largest minimum distance to those before, then the largest mean; greedy-mean: the
    largest mean (the published choice, whose minimum falls to 2). Ties are drawn with `seed`, which algebraic ignores.
    """
    if tiles < 2 or count < 2:
        raise WrongUse(f"{count} permutations of {tiles} tiles are no puzzle: ask for 2 or more of both")
    if kind != "algebraic":
        return _greedy(tiles, count, kind == "greedy-min", seed)
    if tiles not in (4, 9, 16):
        raise WrongUse(f"no algebraic permutations of {tiles} tiles, only of 4, 9 or 16: choose greedy-min")
    found = _affine(tiles)
    if tiles == 9 and count > 72:
        found = _projective(8)
    if count > len(found):
        raise WrongUse(f"{tiles} tiles have {len(found)} algebraic permutations, not {count}: choose greedy-min")
    return found[:count]


def distances(table: Tensor) -> tuple[int, float]:
    """Smallest and mean Hamming distance of two rows of (P, n)."""
    count, tiles = table.shape
    equal = torch.zeros(count, count, dtype=torch.uint8)
    for column in table.T:
        equal += column[:, None] == column
    equal.fill_diagonal_(0)
    return tiles - int(equal.max()), tiles - int(equal.sum(dtype=torch.int64)) / (count * (count - 1))


def _field(q: int) -> tuple[Tensor, Tensor]:
    """Addition and multiplication of GF(q), (q, q) int64 each; an element's digits in base p are its coefficients."""
    p, top = _FIELDS[q]
    power = p ** torch.arange(len(top))
    digits = torch.arange(q)[:, None] // power % p  # (q, n)
    add = ((digits[:, None] + digits) % p * power).sum(2)
    mul = torch.zeros(q, q, dtype=torch.int64)
    shifted = digits  # x ** i times every element
    for i in range(len(top)):
        term = (digits[:, None, i, None] * shifted % p * power).sum(2)
        mul = add[mul, term]
        shifted = torch.cat([torch.zeros(q, 1, dtype=torch.int64), shifted], 1)
        shifted = (shifted[:, :-1] + shifted[:, -1:] * torch.tensor(top)) % p
    return add, mul


def _frobenius(q: int, mul: Tensor) -> list[Tensor]:
    """The powers of x -> x ** p, (q,) each, the identity first."""
    p, top = _FIELDS[q]
    maps = [torch.arange(q)]
    for _ in top[1:]:
        x = power = maps[-1]
        for _ in range(p - 1):
            power = mul[power, x]
        maps.append(power)
    return maps


def _affine(q: int) -> Tensor:
    """x -> a f(x) + b on GF(q), f a power of Frobenius: (.., q), those with f = 1 first, translations side by side."""
    add, mul = _field(q)
    scaled = torch.cat([mul[1:, f] for f in _frobenius(q, mul)])  # (maps, q): a f(x)
    return add[scaled[:, None], torch.arange(q)[:, None]].flatten(0, 1)


def _projective(q: int) -> Tensor:
    """x -> (a x + b) / (c x + d) on GF(q) and infinity, then Frobenius: (.., q + 1), point q is infinity.

    Ordered in cosets of a cyclic group that moves every point to every other, those without Frobenius first.
    """
    add, mul = _field(q)
    line = torch.arange(q)
    inverse = (mul == 1).to(torch.uint8).argmax(1)
    a, b, c, d = torch.cartesian_prod(line, line, line, line).T
    a, b, c, d = (x[mul[a, d] != mul[b, c]] for x in (a, b, c, d))  # in characteristic 2 minus is plus
    over, under = add[mul[a[:, None], line], b[:, None]], add[mul[c[:, None], line], d[:, None]]
    finite = torch.where(under == 0, q, mul[over, inverse[under]])
    at_infinity = torch.where(c == 0, q, mul[a, inverse[c]])
    group = torch.cat([finite, at_infinity[:, None]], 1).unique(dim=0)
    orbit = [torch.zeros(len(group), dtype=torch.int64)]  # where powers of each map take point 0
    for _ in range(q):
        orbit.append(group.gather(1, orbit[-1][:, None])[:, 0])
    turning = torch.stack(orbit, 1).sort(1).values.eq(torch.arange(q + 1)).all(1)
    turn = group[turning.nonzero()[0, 0]]
    cycle = [torch.arange(q + 1)]
    for _ in range(q):
        cycle.append(turn[cycle[-1]])
    base = (q + 1) ** torch.arange(q, -1, -1)
    parts = []
    for f in _frobenius(q, mul):
        part = group[:, torch.cat([f, torch.tensor([q])])]
        names = (torch.stack(cycle)[:, part] * base).sum(2).amin(0)  # the least number in each one's coset
        parts.append(part[names.sort(stable=True).indices])
    return torch.cat(parts)


def _greedy(tiles: int, count: int, by_minimum: bool, seed: int) -> Tensor:
    """One permutation after another; the candidates are in random order, which settles ties."""
    rng = torch.Generator().manual_seed(seed)
    if tiles <= _ALL:
        candidates = _every(tiles)
        candidates = candidates[torch.randperm(len(candidates), generator=rng)]
    else:
        candidates = torch.rand(_SAMPLED, tiles, generator=rng).argsort(1).unique(dim=0)
        candidates = candidates[torch.randperm(len(candidates), generator=rng)].to(torch.uint8)
    if count > len(candidates):
        raise WrongUse(f"{tiles} tiles have {len(candidates)} permutations to choose from, not {count}: ask for fewer")
    # holds[i * n + t]: which candidates have tile t in place i
    holds = torch.cat([(candidates[:, i] == torch.arange(tiles)[:, None]).to(torch.uint8) for i in range(tiles)])
    places = torch.arange(tiles) * tiles
    total = torch.zeros(len(candidates), dtype=torch.int32)  # equal places, summed over the chosen
    most = torch.zeros(len(candidates), dtype=torch.int32)
    rank = 1 << math.ceil(math.log2(tiles * count + 1))  # above every total
    chosen = [0]
    while len(chosen) < count:
        equal = torch.zeros(len(candidates), dtype=torch.uint8)
        for row in (places + candidates[chosen[-1]]).tolist():
            equal += holds[row]
        total += equal
        total[chosen[-1]] += 1 << 30  # never again
        if by_minimum:
            torch.maximum(most, equal.int(), out=most)
        chosen.append(int((most * rank + total if by_minimum else total).argmin()))
    return candidates[torch.tensor(chosen)].long()


def _every(tiles: int) -> Tensor:
    """All n! permutations, uint8: each next tile at every place among those before."""
    found = torch.zeros(1, 0, dtype=torch.uint8)
    for tile in range(tiles):
        new = torch.full((len(found), 1), tile, dtype=torch.uint8)
        found = torch.cat([torch.cat([found[:, :i], new, found[:, i:]], 1) for i in range(tile + 1)])
    return found
