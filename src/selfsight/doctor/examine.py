"""From what every picture tells to findings. Legend: N pictures of all parts, P pairs, G different pictures."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfsight.doctor import near
from selfsight.doctor.kinds import BIT, BROKEN, KINDS, OF_ONE, Limits
from selfsight.doctor.look import Seen

TRAIN, TEST, OTHER = range(3)  # sides: the parts of the set, and all of the one it is held against


@dataclass
class Finding:
    """One kind of finding."""

    kind: str
    count: int
    groups: list[list[int]] = field(default_factory=list)  #: rows of the pictures concerned, those of a group together
    lines: list[str] = field(default_factory=list)  #: what concerns classes, in words


@dataclass
class Checked:
    """A data set that was looked at."""

    name: str
    against: str | None
    limits: Limits
    parts: list[Seen]  #: of the set, then of the other one
    sides: np.ndarray  #: (N,) TRAIN, TEST or OTHER
    labels: np.ndarray  #: (N,) class numbers, -1: none
    classes: list[str]
    notices: list[str]
    findings: dict[str, Finding] = field(default_factory=dict)  #: by kind, the worst first
    seconds: float = 0.0

    def place(self, row: int) -> tuple[Seen, int]:
        """The part that a row lies in, and its row there."""
        for part in self.parts:
            if row < len(part.facts):
                return part, row
            row -= len(part.facts)
        raise IndexError(row)

    def called(self, row: int) -> str:
        """What lists call the picture."""
        part, at = self.place(row)
        return part.file(at)

    def file(self, row: int) -> dict[str, str]:
        """Where a picture is: set, part, file, and why where there is a reason."""
        part, at = self.place(row)
        whose = self.name if self.sides[row] != OTHER else str(self.against)
        found = {"set": whose, "part": part.name, "file": part.file(at)}
        return found | ({"why": part.reasons[at]} if at in part.reasons else {})

    def facts(self, name: str) -> np.ndarray:
        """One column of the facts of all parts: (N, ...)."""
        return np.concatenate([part.facts[name] for part in self.parts])

    @property
    def broken(self) -> np.ndarray:
        """(N,) bool."""
        return np.concatenate([part.broken for part in self.parts])

    @property
    def level(self) -> str:
        """The worst level of the findings; healthy if there are none."""
        found = {KINDS[kind].level for kind in self.findings}
        return next((level for level in ("serious", "warning", "note") if level in found), "healthy")

    def counts(self, side: int) -> dict[str, int]:
        """Pictures of each class of a part, broken ones left out; empty if it has no labels."""
        mine = self.labels[(self.sides == side) & (self.labels >= 0) & ~self.broken]
        if not len(mine):
            return {}
        return dict(zip(self.classes, np.bincount(mine, minlength=len(self.classes)).tolist()))

    def left_out(self) -> dict[str, list[int]]:
        """Kind -> rows of the set to leave out: what cannot be read, and of the training part copies and leaks."""
        found: dict[str, list[int]] = {}
        told: set[int] = set()
        for kind, finding in self.findings.items():
            rows = [row for group in finding.groups for row in self._unwanted(kind, group)]
            found[kind] = list(dict.fromkeys(row for row in rows if row not in told))
            told.update(rows)
        return {kind: rows for kind, rows in found.items() if rows}

    def _unwanted(self, kind: str, group: list[int]) -> list[int]:
        if kind in BROKEN:
            return [row for row in group if self.sides[row] != OTHER]
        train = [row for row in group if self.sides[row] == TRAIN]
        if kind == "duplicate":  # a list of paths may name a file twice: leaving out the second would leave out both
            return [row for row in train[1:] if self.called(row) != self.called(train[0])]
        return train if kind in ("leak", "near_leak", "label_conflict") else []


def examine(checked: Checked) -> None:
    """Fill in the findings."""
    found = [*_of_one(checked), *_copies(checked), *_classes(checked)]
    by_kind = {finding.kind: finding for finding in found if finding.count}
    checked.findings = {kind: by_kind[kind] for kind in KINDS if kind in by_kind}


def _of_one(checked: Checked) -> list[Finding]:
    flags, own = checked.facts("flags"), checked.sides != OTHER
    coloured = (flags & (BIT["gray"] | BIT["blank"])) == 0
    if not (own & ~checked.broken & coloured).any():  # all of them are gray: so they are meant
        flags = flags & ~np.uint32(BIT["gray"])
    found = []
    for kind in OF_ONE:
        rows = np.flatnonzero(own & ((flags & BIT[kind]) > 0)).tolist()
        found.append(Finding(kind, len(rows), [[row] for row in rows]))
    return found


def _copies(checked: Checked) -> list[Finding]:
    """Exact and near duplicates, leaks, and the same under two labels."""
    rows = np.flatnonzero(~checked.broken)
    sides, labels = checked.sides, checked.labels
    digest = np.ascontiguousarray(checked.facts("digest")[rows]).view("V16")[:, 0]
    _, first, group = np.unique(digest, return_index=True, return_inverse=True)
    duplicate, leak, conflict = Finding("duplicate", 0), Finding("leak", 0), Finding("label_conflict", 0)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=len(first))
    ends = sizes.cumsum()
    for g in np.flatnonzero(sizes > 1).tolist():
        members = rows[order[ends[g] - sizes[g] : ends[g]]]
        train, test, other = (members[sides[members] == side].tolist() for side in (TRAIN, TEST, OTHER))
        for part in (train, test):
            if len(part) > 1:
                duplicate.groups.append(part)
                duplicate.count += len(part) - 1
        if train and test + other:
            leak.groups.append(train + test + other)
            leak.count += len(train)
        if len({int(labels[row]) for row in train + test} - {-1}) > 1:
            conflict.groups.append(train + test)
            conflict.count += 1
    firsts = np.stack([_first_of(rows, group, len(first), sides[rows] == side) for side in (TRAIN, TEST, OTHER)], 1)
    leaked = {row for members in leak.groups for row in members}
    exact = [duplicate, leak, conflict]
    for finding in exact:
        finding.groups.sort()
    return [*exact, *(_look_alikes(checked, rows[first], firsts, leaked) if checked.limits.near >= 0 else [])]


def _first_of(rows: np.ndarray, group: np.ndarray, count: int, mine: np.ndarray) -> np.ndarray:
    """(G,) the first row of each group among some, -1 where there is none."""
    found = np.full(count, -1)
    found[group[mine][::-1]] = rows[mine][::-1]
    return found


def _look_alikes(checked: Checked, rows: np.ndarray, firsts: np.ndarray, leaked: set[int]) -> list[Finding]:
    """`rows`: (G,) one of each picture; `firsts`: (G, 3) the first of each side; `leaked`: rows that are leaks already."""
    hashes, thumbs = checked.facts("hash")[rows], checked.facts("thumb")[rows]
    pairs, bits = near.pairs(hashes, thumbs, checked.limits.near, firsts[:, TRAIN] >= 0)
    a, b = firsts[pairs[:, 0]], firsts[pairs[:, 1]]  # (P, 3) each
    best: dict[int, tuple[int, int]] = {}
    for mine, theirs in ((a, b), (b, a)):
        partner = np.where(theirs[:, TEST] >= 0, theirs[:, TEST], theirs[:, OTHER])
        there = np.flatnonzero((mine[:, TRAIN] >= 0) & (partner >= 0))
        for row, other, distance in zip(mine[there, TRAIN].tolist(), partner[there].tolist(), bits[there].tolist()):
            if row not in leaked:
                best[row] = min(best.get(row, (65, 0)), (distance, other))
    leak = Finding("near_leak", len(best), [[row, other] for row, (_, other) in sorted(best.items())])
    groups = [
        group
        for side in (TRAIN, TEST)
        for group in _together(a[:, side], b[:, side], (a[:, side] >= 0) & (b[:, side] >= 0))
    ]
    alike = Finding("near_duplicate", sum(len(group) - 1 for group in groups), groups)
    own_a, own_b = (np.where(x[:, TRAIN] >= 0, x[:, TRAIN], x[:, TEST]) for x in (a, b))
    label_a, label_b = checked.labels[own_a], checked.labels[own_b]  # of row -1 where there is none: masked below
    differ = (own_a >= 0) & (own_b >= 0) & (label_a >= 0) & (label_b >= 0) & (label_a != label_b)
    conflicts = sorted(sorted(pair) for pair in np.stack([own_a[differ], own_b[differ]], 1).tolist())
    return [leak, alike, Finding("near_label_conflict", len(conflicts), conflicts)]


def _together(a: np.ndarray, b: np.ndarray, chosen: np.ndarray) -> list[list[int]]:
    """Groups of rows that pairs connect."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = a[chosen], b[chosen]
    if not len(a):
        return []
    rows, ends = np.unique(np.concatenate([a, b]), return_inverse=True)
    graph = coo_matrix((np.ones(len(a)), (ends[: len(a)], ends[len(a) :])), shape=(len(rows), len(rows)))
    _, number = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for row, n in zip(rows.tolist(), number.tolist()):
        groups.setdefault(n, []).append(row)
    return sorted(groups.values())


def _classes(checked: Checked) -> list[Finding]:
    limits = checked.limits
    small, imbalance = Finding("small_class", 0), Finding("imbalance", 0)
    for side, name in ((TRAIN, "train"), (TEST, "test")):
        counts = checked.counts(side)
        few = {label: count for label, count in counts.items() if count < limits.few and (count or side == TRAIN)}
        small.lines += [f"{name}: {label} has {count}" for label, count in sorted(few.items(), key=lambda x: x[1])]
        there = {label: count for label, count in counts.items() if count}
        if there and max(there.values()) >= limits.imbalance * min(there.values()):
            most, least = max(there, key=there.__getitem__), min(there, key=there.__getitem__)
            ratio = there[most] / there[least]
            imbalance.lines.append(
                f"{name}: {most} has {there[most]}, {least} {there[least]}: {ratio:.0f} times as many"
            )
    small.count, imbalance.count = len(small.lines), len(imbalance.lines)
    return [small, imbalance]


def sizes(checked: Checked) -> dict[str, Any]:
    """Distribution of the sizes of the set's pictures in pixels, upright; empty if none can be read."""
    good = (checked.sides != OTHER) & ~checked.broken
    width, height = (checked.facts(name)[good].astype(np.int64) for name in ("width", "height"))
    if not len(width):
        return {}
    different, counts = np.unique(np.stack([width, height], 1), axis=0, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:10]
    shares = (0, 5, 25, 50, 75, 95, 100)
    spread = {
        name: dict(zip(map(str, shares), np.percentile(values, shares).round().astype(int).tolist()))
        for name, values in (("width", width), ("height", height), ("shorter", np.minimum(width, height)))
    }
    return {
        "percentiles": spread,
        "different": len(counts),
        "most_common": [[f"{w}x{h}", n] for (w, h), n in zip(different[common].tolist(), counts[common].tolist())],
    }
