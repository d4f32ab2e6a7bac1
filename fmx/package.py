"""The model package: written whole, read with every hash checked. The schema is `fmx.contract.Manifest`; docs/package.md explains it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmx import storage
from fmx.contract import Manifest, Variant, parse_contract
from fmx.errors import PackageError
from fmx.tasks import Task, open_task

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
UNHASHED = (MANIFEST, "measurements", SIGNATURE)


@dataclass(frozen=True)
class Package:
    """A package folder whose every hashed file was found as the manifest says."""

    folder: Path
    manifest: Manifest
    digest: str
    """SHA-256 of manifest.json, and through it of every file: what identifies a package in logs, metrics and answers."""

    @property
    def name(self) -> str:
        """The package's name."""
        return self.manifest.name

    def variant(self, name: str | None = None, device: str = "cpu") -> Variant:
        """Return the named variant, or the first whose `requires` this host meets.

        Raises:
            PackageError: no such variant, or none fits the host.
        """
        variants = self.manifest.variants
        if name is not None:
            for variant in variants:
                if variant.name == name:
                    return variant
            raise PackageError(f"{self.name} has no variant {name!r}.", hint=f"It has: {', '.join(v.name for v in variants)}.")
        for variant in variants:
            if self.fits(variant, device):
                return variant
        raise PackageError(f"No variant of {self.name} fits this host.", hint="Export again with a variant for this CPU, such as fp32.")

    @staticmethod
    def fits(variant: Variant, device: str) -> bool:
        """Say whether this host, used with `device`, meets what a variant requires."""
        return variant.requires.met_by(device)


def find_package(given: str | Path | None = None) -> Path:
    """Find a package folder from a path, a name or `latest`. Raises: `UsageError`."""
    return storage.resolve(given, "packages", MANIFEST)


def task_of(package: Package) -> Task:
    """Open a package's task, with the tokenizer that lies in its folder. Raises: `PackageError`."""
    contract = package.manifest.contract
    return open_task(contract.task, contract.labels, contract.input, package.folder)


def load_package(folder: Path) -> Package:
    """Open a package and check the SHA-256 of every file.

    Raises:
        PackageError: damaged, altered, of a later schema, or with files that the manifest does not know.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise PackageError(f"{folder} is no package: {MANIFEST} cannot be read.", hint="Make one with: fmx export") from error
    manifest = parse_contract(raw, Manifest, folder / MANIFEST)
    try:
        for name, expected in manifest.files.items():
            _check_file(folder, name, expected)
        found = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise PackageError(f"{folder.name} cannot be read ({error}).", hint="Whose are its files, and who may read them?") from error
    for variant in manifest.variants:
        if manifest.files.get(variant.file) != variant.sha256:
            raise PackageError(f"{folder.name}: the hash of variant {variant.name} differs within the manifest.", hint=_ALTERED)
    unknown = [name for name in found if name not in manifest.files and name not in UNHASHED]
    if unknown:
        raise PackageError(f"{folder.name} holds files that its manifest does not know: {', '.join(unknown)}.", hint=_ALTERED)
    return Package(folder, manifest, storage.sha256_bytes(raw))


_ALTERED = "The package was altered or damaged after export. Copy it again from its source, or export again."


def _check_file(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise PackageError(f"{folder.name}: {name} is missing.", hint=_ALTERED)
    if storage.sha256_file(path) != expected:
        raise PackageError(f"{folder.name}: {name} is not the file that was exported (its SHA-256 differs).", hint=_ALTERED)


@contextmanager
def new_package(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a working folder that becomes the package `target` when the block ends well, and leaves nothing when it raises."""
    with storage.new_folder(target, force=force) as working:
        yield working


def write_manifest(folder: Path, fields: dict[str, Any]) -> Manifest:
    """Hash every file in the folder and write manifest.json beside them, last."""
    files = {path.name: storage.sha256_file(path) for path in sorted(folder.iterdir()) if path.name not in UNHASHED}
    manifest = Manifest(**fields, files=files)
    storage.write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def contract_digest(fields: dict[str, Any]) -> str:
    """Give the SHA-256 of the contract (labels, input, output, recipe) in canonical JSON; each ONNX file carries it."""
    return storage.sha256_bytes(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
