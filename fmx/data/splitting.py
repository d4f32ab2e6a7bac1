"""Splits that a source lacks, dealt out of its training rows so that nothing that belongs together is torn apart.

Rows of one group, files with the same bytes and texts that are nearly the same form a cluster, and a cluster goes to one split whole. Where
every row is its own cluster the split is `split_items`, row for row.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

from fmx.data.parallel import in_threads
from fmx.data.source import HELD_OUT, SPLITS, Item, apportion, check_classes, split_items
from fmx.errors import DataError


def complete_splits(given: dict[str, list[Item]], labels: tuple[str, ...], seed: int, where: str, noun: str = "images") -> dict[str, list[Item]]:
    """Check the given splits and deal those that are missing out of the training rows, stratified and seeded.

    Args:
        given: `train`, and `validation` and `test` where the data have them.
        labels: of the training rows.
        seed: of the shuffle.
        where: what messages call the data.
        noun: what messages call the rows.

    Raises:
        DataError: nothing to learn, a class with too few rows or groups, or a group that is in two of the given splits.
    """
    missing = {name: HELD_OUT for name in ("validation", "test") if not given.get(name)}
    check_classes(given["train"], labels, 1 + len(missing), where, noun)
    return _completed(given, labels, seed, where, missing)


def complete_unlabelled(given: dict[str, list[Item]], seed: int, where: str, noun: str) -> dict[str, list[Item]]:
    """Do as `complete_splits` does, for items that are of no one class. Raises: `DataError`."""
    missing = {name: HELD_OUT for name in ("validation", "test") if not given.get(name)}
    if len(given["train"]) < 1 + len(missing):
        raise DataError(f"{where} has too few {noun}: {len(given['train'])}.", hint=f"It needs one a split at the least; add {noun}.")
    return _completed(given, (noun,), seed, where, missing)


def _completed(given: dict[str, list[Item]], labels: tuple[str, ...], seed: int, where: str, missing: dict[str, float]) -> dict[str, list[Item]]:
    _check_groups(given, where)
    dealt = given | deal(given["train"], labels, seed, missing) if missing else given
    return {name: dealt[name] for name in SPLITS}


def deal(items: list[Item], labels: tuple[str, ...], seed: int, parts: dict[str, float]) -> dict[str, list[Item]]:
    """Deal items into parts as `split_items` does, but groups and files with the same bytes whole.

    Raises:
        DataError: a class has fewer groups than there are parts.
    """
    clusters = find_clusters(items)
    if clusters.max(initial=-1) + 1 == len(items):
        return split_items(items, len(labels), seed, parts)
    return _Dealing(items, clusters, labels, seed, parts).deal()


def find_clusters(items: list[Item]) -> np.ndarray:
    """Number the clusters of rows that must stay together.

    Returns:
        int64 [items]: the cluster of every item, counted from 0 in order of first appearance.
    """
    first: dict[object, int] = {}
    parent = list(range(len(items)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, (item, digest) in enumerate(zip(items, _digests_of_twins(items), strict=True)):
        for key in (item.group, digest, item.likeness and ("like", item.likeness), item.query and ("query", item.query)):
            if key is not None:
                low, high = sorted((root(index), root(first.setdefault(key, index))))
                parent[high] = low
    _, clusters = np.unique([root(index) for index in range(len(items))], return_inverse=True)
    return clusters.astype(np.int64)


def _digests_of_twins(items: list[Item]) -> list[bytes | None]:
    """Hash the files that share their size with another; no other file can have a twin. An unreadable file is left to decoding."""
    sizes = [_size(item) for item in items]
    times = Counter(sizes)
    candidates = [index for index, size in enumerate(sizes) if times[size] > 1]
    digests: list[bytes | None] = [None] * len(items)

    def hash_one(position: int) -> None:
        index = candidates[position]
        try:
            digests[index] = hashlib.sha256(items[index].read()).digest()
        except OSError:
            digests[index] = None

    in_threads(hash_one, len(candidates), "looking for copies")
    return digests


def _size(item: Item) -> int:
    """Return a file's size; -1 where only reading would tell, so that all such files are compared."""
    try:
        return -1 if item.size is None else item.size()
    except OSError:
        return -1


def torn(given: dict[str, list[Item]], of: Callable[[Item], str | None]) -> tuple[list[str], int]:
    """Find what the data themselves put into more than one split, such as groups.

    Args:
        given: items by split.
        of: gives an item's group, or the like.

    Returns:
        Those that are, sorted, and how many there are in all.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for split, items in given.items():
        for name in map(of, items):
            if name is not None:
                splits[name].add(split)
    return sorted(name for name, found in splits.items() if len(found) > 1), len(splits)


def _check_groups(given: dict[str, list[Item]], where: str) -> None:
    groups, _ = torn(given, lambda item: item.group)
    if groups:
        raise DataError(
            f"{where}: {len(groups)} groups are in more than one split: {', '.join(groups[:5])}{' ...' if len(groups) > 5 else ''}.",
            hint="Move every row of a group into one split, or leave the splits out and let fmx deal them.",
        )


class _Dealing:
    """Clusters on their way into parts: first one of every class for every part, then large ones where they fit best, then single rows."""

    def __init__(self, items: list[Item], clusters: np.ndarray, labels: tuple[str, ...], seed: int, parts: dict[str, float]) -> None:
        self.items, self.labels = items, labels
        self.parts = [*parts, "train"]
        self.members: list[list[int]] = [[] for _ in range(int(clusters.max()) + 1)]
        for index, cluster in enumerate(clusters):
            self.members[cluster].append(index)
        self.classes = [Counter(items[index].label for index in rows) for rows in self.members]
        self.place = np.full(len(self.members), -1)
        shuffled = np.random.default_rng(seed).permutation(len(self.members))
        self.order = sorted(shuffled.tolist(), key=lambda cluster: len(self.members[cluster]))
        sizes = np.bincount([item.label for item in items], minlength=len(labels))
        held_out = [apportion(sizes, share) for share in parts.values()]
        self.targets = np.maximum(1, np.array([*held_out, sizes - sum(held_out)], dtype=np.float64))  # [parts, classes]
        self.needs = self.targets.copy()

    def deal(self) -> dict[str, list[Item]]:
        self._give_every_part_every_class()
        for cluster in reversed(self.order):
            if self.place[cluster] < 0 and len(self.members[cluster]) > 1:
                self._put(cluster, self._best_part(cluster))
        self._deal_single_rows()
        dealt: dict[str, list[int]] = {name: [] for name in ("train", *self.parts[:-1])}
        for cluster, rows in enumerate(self.members):
            dealt[self.parts[self.place[cluster]]] += rows
        return {name: [self.items[index] for index in sorted(rows)] for name, rows in dealt.items()}

    def _give_every_part_every_class(self) -> None:
        of_class: dict[int, list[int]] = {label: [] for label in range(len(self.labels))}
        for cluster in self.order:
            for label in self.classes[cluster]:
                of_class[label].append(cluster)
        thin = [f"{self.labels[label]} ({len(found)})" for label, found in of_class.items() if len(found) < len(self.parts)]
        if thin:
            raise self._too_few_groups(thin)
        for label, found in sorted(of_class.items(), key=lambda entry: len(entry[1])):
            free = iter(found)
            for part in range(len(self.parts)):
                if any(self.place[cluster] == part for cluster in found):
                    continue
                cluster = next((cluster for cluster in free if self.place[cluster] < 0), -1)
                if cluster < 0:
                    raise self._too_few_groups([self.labels[label]])
                self._put(cluster, part)

    def _best_part(self, cluster: int) -> int:
        """Choose the part whose squared distance from its target, class by class and relative to the target, falls most."""
        labels = list(self.classes[cluster])
        rows = np.array([self.classes[cluster][label] for label in labels])
        change = (rows**2 - 2 * self.needs[:, labels] * rows) / self.targets[:, labels]  # [parts, classes of the cluster]
        return int(change.sum(axis=1).argmin())

    def _deal_single_rows(self) -> None:
        left: dict[int, list[int]] = defaultdict(list)
        for cluster in self.order:
            if self.place[cluster] < 0:
                left[next(iter(self.classes[cluster]))].append(cluster)
        for label, clusters in left.items():
            start = 0
            for part in range(len(self.parts) - 1):
                end = start + max(0, int(self.needs[part, label]))
                self.place[clusters[start:end]] = part
                start = end
            self.place[clusters[start:]] = len(self.parts) - 1

    def _put(self, cluster: int, part: int) -> None:
        self.place[cluster] = part
        for label, rows in self.classes[cluster].items():
            self.needs[part, label] -= rows

    def _too_few_groups(self, thin: list[str]) -> DataError:
        return DataError(
            f"Too few groups to deal into {len(self.parts)} splits in: {', '.join(thin)}.",
            hint="Rows of one group, and rows with the same bytes, stay in one split; each class needs a group for every split.",
        )
