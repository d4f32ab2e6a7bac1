"""Fetching data sets that torchvision knows, where there is a network; reading them is fmx/data/."""

from __future__ import annotations

from urllib.error import URLError

from fmx.data.cifar10 import data_folder, find_cifar10
from fmx.errors import DataError


def ensure_downloaded(data: str) -> None:
    """Download a named data set that is not on this disk yet.

    Raises:
        DataError: there is no network; the hint says which archive to put where.
    """
    if data != "cifar10":
        return
    try:
        find_cifar10()
    except DataError as absent:
        from torchvision.datasets import CIFAR10

        try:
            CIFAR10(str(data_folder()), download=True)
        except (URLError, OSError, RuntimeError) as error:
            raise DataError(f"CIFAR-10 could not be downloaded ({getattr(error, 'reason', error)}).", hint=absent.hint) from error
