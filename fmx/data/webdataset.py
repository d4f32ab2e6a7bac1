"""WebDataset shards: tar files where members of the same key form a sample, such as `0001.jpg` beside `0001.cls`.

A shard is indexed once, member by member without reading the images; a sample is read by its offset when it is wanted.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fmx.data.folder import SUFFIXES, check_grouped, compile_group, find_group
from fmx.data.source import SPLIT_NAMES, SPLITS, Item, Source, label_items, sort_labels
from fmx.data.splitting import complete_splits
from fmx.errors import DataError, disk_errors

CLASSES_FILE = "classes.txt"
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_SPLIT_PREFIX = re.compile(rf"({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass
class _Sample:
    """The members of one key, as they come up in a shard."""

    images: list[tuple[str, int, int]] = field(default_factory=list)
    """(name, offset, size in bytes)"""
    label: str | None = None


def open_webdataset(spec: str, seed: int, group_by: str | None = None) -> Source:
    """Open one tar, a folder of tars, or a pattern such as `shard-{000..009}.tar`.

    Shards in folders called train, val or test, or whose names begin so, keep these splits. The label is the `.cls` member (a number or
    text) or `label` of the `.json` member; numbers are looked up in `classes.txt` beside the shards where there is one.

    Args:
        spec: what to open.
        seed: of the split.
        group_by: a regular expression on the sample's key whose first group is the group.

    Raises:
        DataError: no shards, a compressed or damaged one, or a sample without an image or a label.
    """
    pattern = compile_group(group_by)
    shards = _find_shards(spec)
    names = _class_names(shards)
    found: dict[str, list[tuple[str, Item]]] = {}
    for split, paths in _by_split(spec, shards).items():
        for path in paths:
            found.setdefault(split, []).extend(_samples(path, names, pattern))
    if not found.get("train"):
        raise DataError(f"{spec} has no training samples.", hint="Name shards train-..., or leave split names out and let fmx deal the splits.")
    used = {label for label, _ in found["train"]}
    labels = tuple(name for name in names if name in used) if names else sort_labels(used)
    given = label_items({split: found[split] for split in SPLITS if split in found}, labels, spec)
    check_grouped(given, group_by, spec)
    return Source(spec, labels, complete_splits(given, labels, seed, spec))


def holds_only_shards(folder: Path) -> bool:
    """Say whether a folder is one of shards: tars, and nothing else but notes, in it or in its split folders."""
    with disk_errors(f"reading {folder}"):
        children = [path for path in folder.iterdir() if not path.name.startswith(".")]
        folders = [path for path in children if path.is_dir()]
        files = [path for path in children if path.is_file()]
        inside = [path for path in folders if path.name.lower() in SPLIT_NAMES and any(path.glob("*.tar"))]
    if folders:
        return len(inside) == len(folders)
    return any(path.suffix == ".tar" for path in files) and not any(path.suffix.lower() in SUFFIXES for path in files)


def _find_shards(spec: str) -> list[Path]:
    path = Path(spec)
    if path.is_dir():
        shards = sorted(path.glob("*.tar")) or [
            shard for folder in sorted(path.iterdir()) if folder.is_dir() for shard in sorted(folder.glob("*.tar"))
        ]
    else:
        shards = [Path(name) for name in _expand(spec)]
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise DataError(
            f"{len(missing)} shards of {spec} are missing: {', '.join(missing[:5])}." if missing else f"{spec} matches no shard.",
            hint="Give a .tar file, a folder of .tar files, or a pattern such as 'shard-{000..009}.tar'.",
        )
    return shards


def _expand(spec: str) -> list[str]:
    """Expand every `{000..009}`, keeping the zeros in front."""
    choices = [[f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)] for first, last in _BRACES.findall(spec)]
    template = _BRACES.sub("\0", spec).split("\0")
    return ["".join(itertools.chain(*zip(template, (*chosen, ""), strict=True))) for chosen in itertools.product(*choices)]


def _by_split(spec: str, shards: list[Path]) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    alone = []
    for shard in shards:
        found = _SPLIT_PREFIX.match(shard.name)
        name = found[1] if found else shard.parent.name
        if name.lower() in SPLIT_NAMES:
            splits.setdefault(SPLIT_NAMES[name.lower()], []).append(shard)
        else:
            alone.append(shard)
    if splits and alone:
        raise DataError(
            f"{spec}: some shards have a split in their name, but not {alone[0].name}.", hint="Begin all of them with train, val or test."
        )
    return splits or {"train": alone}


def _class_names(shards: list[Path]) -> tuple[str, ...]:
    for folder in dict.fromkeys(folder for shard in shards for folder in (shard.parent, shard.parent.parent)):
        if (folder / CLASSES_FILE).is_file():
            names = tuple(line.strip() for line in (folder / CLASSES_FILE).read_text(encoding="utf-8-sig").splitlines() if line.strip())
            if len(set(names)) < len(names):
                raise DataError(f"{folder / CLASSES_FILE} has a name twice.", hint="It holds one class a line, in the order of the numbers.")
            return names
    return ()


def _samples(path: Path, names: tuple[str, ...], pattern: re.Pattern[str] | None) -> Iterator[tuple[str, Item]]:
    for key, sample in _index(path).items():
        if len(sample.images) != 1 or sample.label is None:
            what = "no label" if sample.label is None else "no image" if not sample.images else f"{len(sample.images)} images"
            raise DataError(f"{path}: the sample {key} has {what}.", hint="A sample is one image and a .cls or .json member with the same key.")
        name, offset, size = sample.images[0]
        read = functools.partial(_read, path, offset, size)
        yield _label(path, key, sample.label, names), Item(f"{path.name}/{name}", -1, read, find_group(pattern, key), functools.partial(int, size))


def _label(path: Path, key: str, given: str, names: tuple[str, ...]) -> str:
    if not names or given in names:
        return given
    if given.isdecimal() and int(given) < len(names):
        return names[int(given)]
    raise DataError(f"{path}: the sample {key} has the label {given!r}, which {CLASSES_FILE} does not know.", hint="Add it there, one class a line.")


def _index(path: Path) -> dict[str, _Sample]:
    """Read a shard's member headers and its labels. Raises: `DataError` for a compressed or damaged shard."""
    samples: dict[str, _Sample] = {}
    with disk_errors(f"reading {path}"), path.open("rb") as file:
        _check_plain(path, file.read(8))
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as shard:
                for member in shard:
                    _add(samples, path, shard, member)
                    shard.members = []  # type: ignore[attr-defined]  # tarfile keeps every member's header otherwise
                end = shard.offset
        except tarfile.TarError as error:
            raise DataError(f"{path} is no whole tar file ({error}).", hint="Copy or write the shard again.") from error
        file.seek(end)
        if any(file.read(tarfile.BLOCKSIZE)):  # tarfile takes a damaged header in the middle for the end
            raise DataError(f"{path} is damaged at byte {end:,}.", hint="Copy or write the shard again.")
    return samples


def _check_plain(path: Path, start: bytes) -> None:
    for magic, tool in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(f"{path} is compressed; samples could not be read by their place in it.", hint=f"Unpack it once: {tool} {path}")


def _add(samples: dict[str, _Sample], path: Path, shard: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if not member.isreg() or name.name.startswith("."):
        return
    stem, _, endings = name.name.partition(".")
    ending = PurePosixPath("x." + endings.lower()).suffix
    if ending not in (*SUFFIXES, ".cls", ".json"):
        return
    sample = samples.setdefault(str(name.parent / stem), _Sample())
    if ending in SUFFIXES:
        sample.images.append((member.name, member.offset_data, member.size))
        return
    content = shard.extractfile(member)
    data = content.read() if content else b""
    try:
        given = data.decode().strip() if ending == ".cls" else json.loads(data).get("label")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: the member {member.name} cannot be read ({error}).", hint="Write the shard again.") from error
    if given not in (None, ""):
        sample.label = str(given)


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
