from __future__ import annotations

import hashlib
import subprocess
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fmx.contract import ImageInput
from fmx.data import open_source, rows
from fmx.data.rows import read_splits
from fmx.errors import SurroundingsError
from tests.conftest import MakeFolder, image_task


def test_rows_on_disk_equal_rows_in_memory(digit_folder: MakeFolder, spec: ImageInput, monkeypatch: pytest.MonkeyPatch) -> None:
    root = digit_folder(3, 30)
    (root / "class-1" / "004.png").write_bytes(b"broken")
    in_memory = read_splits(open_source(str(root)), image_task(spec))
    monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 1)
    on_disk = read_splits(open_source(str(root)), image_task(spec))
    assert sum(len(found) for found in on_disk.values()) == 89
    for split, found in on_disk.items():
        assert isinstance(found.values, np.memmap)
        assert np.array_equal(found.values, in_memory[split].values)
        assert found.fingerprint == in_memory[split].fingerprint
        assert found.names == in_memory[split].names


def test_unreadable_file_does_not_copy_rows_on_disk_into_memory(digit_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = digit_folder(2, 60)
    large = ImageInput(height=512, width=512, mean=(0, 0, 0), std=(1, 1, 1))
    source = open_source(str(root))
    (root.parent / source.splits["train"][0].name).write_bytes(b"broken")
    monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 1)
    tracemalloc.start()
    found = read_splits(source, image_task(large))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found["train"]) == len(source.splits["train"]) - 1
    assert peak < found["train"].values.nbytes / 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_an_error_not_a_killed_process(
    digit_folder: MakeFolder, spec: ImageInput, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(digit_folder(10, 70)))
    monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(SurroundingsError, match="which is not free") as caught:
        read_splits(source, image_task(spec))
    assert "TMPDIR" in caught.value.hint
    assert not list(small_disk.iterdir())


def test_digests_are_of_the_files_and_keep_to_the_rows_that_were_read(digit_folder: MakeFolder, spec: ImageInput) -> None:
    root = digit_folder(3, 20)
    (root / "class-1" / "004.png").write_bytes(b"broken")
    source = open_source(str(root))
    contents = {item.name: item.read() for items in source.splits.values() for item in items}
    for found in read_splits(source, image_task(spec)).values():
        assert found.digests == tuple(hashlib.sha256(contents[name]).digest() for name in found.names)
        parts = [hashlib.sha256(contents[n] + int(label).to_bytes(8, "little")).digest() for n, label in zip(found.names, found.labels, strict=True)]
        assert found.fingerprint.sha256 == hashlib.sha256(b"".join(parts)).hexdigest()


def test_truncated_file_is_named_before_training_pytorch_7238(digit_folder: MakeFolder, spec: ImageInput) -> None:
    """pytorch#7238, vision#138: one truncated file killed the second hour, or was silently replaced by another image."""
    root = digit_folder(3, 30)
    file = root / "class-2" / "007.png"
    file.write_bytes(file.read_bytes()[:-30])
    source = open_source(str(root))
    found = read_splits(source, image_task(spec))
    skipped = [fault for one in found.values() for fault in one.skipped]
    listed = sum(len(items) for items in source.splits.values())
    assert [name for name, _ in skipped] == ["digits/class-2/007.png"]
    assert "truncated" in skipped[0][1]
    assert sum(len(one) for one in found.values()) == listed - 1
