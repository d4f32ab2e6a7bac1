"""What people get wrong on the command line: a clear sentence with a hint, the right exit code, nothing half-written, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from export.target import TARGETS, host_target
from fmx.package import Package
from tests.conftest import make_digit_folder
from tests.e2e.conftest import BIN, Fmx, environment, runner

INT8 = TARGETS[host_target()].variant


def refused(result: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    assert result.returncode == code, result.stderr
    first, *rest = result.stderr.strip().splitlines()[-2:]
    assert rest, f"no hint: {first}"
    for part in said:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("classes", "images", "said"), [(0, 0, "no class folders"), (1, 9, "one class"), (2, 1, "too few images"), (2, 0, "no images")]
)
def test_data_that_cannot_be_learnt_from(fmx: Fmx, tmp_path: Path, classes: int, images: int, said: str) -> None:
    (tmp_path / "data").mkdir()
    make_digit_folder(tmp_path / "data", classes, images)
    refused(fmx("train", "--data", str(tmp_path / "data")), 3, said)
    assert not (tmp_path / "runs").exists()


def test_data_that_are_not_there(fmx: Fmx, tmp_path: Path) -> None:
    refused(fmx("train", "--data", "photoss/"), 3, "There is no data at 'photoss/'")


def test_too_many_broken_images(fmx: Fmx, tmp_path: Path) -> None:
    root = make_digit_folder(tmp_path / "data", 2, 10)
    for number in range(2):
        (root / "class-0" / f"{number:03d}.png").write_bytes(b"broken")
    refused(fmx("train", "--data", str(root), "--size", "32"), 3, "2 of 20 images cannot be read", "000.png")
    assert not (tmp_path / "runs").exists()


def test_unknown_model(fmx: Fmx) -> None:
    refused(fmx("train", "--model", "resnt18"), 4, "resnet18")


def test_weights_that_are_not_there(fmx: Fmx) -> None:
    refused(fmx("train", "--weights", "nowhere.pth"), 4, "nowhere.pth")


def test_wrong_options(fmx: Fmx) -> None:
    refused(fmx("train", "--epochs", "0", "--method", "magic"), 2, "--epochs is 0", "--method is 'magic'")
    refused(fmx("export", "--quantize", "int9"), 2, "--quantize is 'int9'")
    refused(fmx("train", "--epochs", "many"), 2)
    refused(fmx("trian"), 2)


def test_export_without_a_run_or_of_something_else(fmx: Fmx, tmp_path: Path) -> None:
    refused(fmx("export"), 2, "There is no run yet", "fmx train")
    (tmp_path / "holiday").mkdir()
    refused(fmx("export", str(tmp_path / "holiday")), 2, "is no run")


def test_package_with_a_changed_byte(fmx: Fmx, small_package: Package, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(small_package.folder, tmp_path / "copy"))
    data = bytearray((copy / f"model.{INT8}.onnx").read_bytes())
    data[5000] ^= 1
    (copy / f"model.{INT8}.onnx").write_bytes(bytes(data))
    for command in (("verify", str(copy)), ("inspect", str(copy)), ("eval", str(copy), "--data", "digits"), ("predict", str(copy), str(copy))):
        result = fmx(*command)
        assert result.returncode in (6, 2), result.stderr
    refused(fmx("verify", str(copy)), 6, f"model.{INT8}.onnx")


def test_damaged_run_file(fmx: Fmx, tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "run.json").write_text('{"schema_version": 1, "nam')
    refused(fmx("export", "x"), 6, "is no JSON")


def test_port_that_is_taken(fmx: Fmx, small_package: Package) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(fmx("serve", str(small_package.folder), "--port", port), 7, "cannot be listened on")


def test_cifar10_that_is_not_there_offline(fmx: Fmx, tmp_path: Path) -> None:
    refused(fmx("eval", "latest", "--data", "cifar10"), 2)
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    refused(fmx("train", "--data", "cifar10", **nowhere), 3, "cifar-10-python.tar.gz", str(tmp_path / "data"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_disk_that_fills_up(fmx: Fmx, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        data = make_digit_folder(tmp_path / "data", 2, 12)
        result = fmx("train", "--data", str(data), "--size", "32", "--epochs", "1", "--out", str(disk / "runs"))
        refused(result, 7, "MB free", "--out")
        assert list((disk / "runs").iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("delay_s", [0.1, 1.5, 4.0, 7.0])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_at_any_moment(tmp_path: Path, delay_s: float, number: signal.Signals, code: int) -> None:
    returncode, errors = _interrupt(tmp_path, delay_s, number)
    while b"Fatal Python error: init_" in errors:  # Python itself was still starting; not a line of ours had run
        delay_s += 0.2
        returncode, errors = _interrupt(tmp_path, delay_s, number)
    assert returncode in (code, -number), errors.decode()
    assert b"Traceback" not in errors
    left = sorted((tmp_path / "runs").glob("*"))
    assert len(left) <= 1
    for folder in left:  # whatever is left can be gone on with
        assert f"fmx train --resume {folder.name}" in runner(tmp_path)("runs").stdout


def _interrupt(home: Path, delay_s: float, number: signal.Signals) -> tuple[int, bytes]:
    process = subprocess.Popen(
        [str(BIN / "fmx"), "train", "--size", "32", "--epochs", "200", "--patience", "200"],
        env=environment(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(delay_s)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors
