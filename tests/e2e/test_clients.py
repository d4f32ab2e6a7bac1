"""Clients of a running service: `fmx predict --url`, and BentoML's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fmx.data import open_source
from fmx.package import Package
from tests.e2e.conftest import Fmx, Server, serving


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    files = [folder / f"{number}.png" for number in range(3)]
    for file, item in zip(files, open_source("digits").splits["test"], strict=False):
        file.write_bytes(item.read())
    return files


@pytest.fixture(scope="module")
def server(light_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("clients"), light_package.folder) as running:
        yield running


def test_predict_of_a_service_prints_what_the_package_does(fmx: Fmx, server: Server, images: list[Path], light_package: Package) -> None:
    folder = str(images[0].parent)
    for options in (("--json",), ("--top-k", "2")):
        here = fmx("predict", str(light_package.folder), folder, *options)
        there = fmx("predict", "--url", server.url, folder, *options, FMX_KEY=server.key)
        assert here.returncode == there.returncode == 0, there.stderr
        assert here.stdout == there.stdout
        assert not there.stderr
    piped = fmx("predict", "--url", server.url, "--key", server.key, "-", "--json", stdin=images[0].read_bytes())
    assert len(json.loads(piped.stdout)["predictions"]) == 1


def test_predict_of_a_service_names_what_it_refuses(fmx: Fmx, server: Server, images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"broken")
    result = fmx("predict", "--url", server.url, str(broken), str(images[0]), "--json", FMX_KEY=server.key)
    assert result.returncode == 3
    answer = json.loads(result.stdout)
    assert [item["input"] for item in answer["predictions"]] == [str(images[0])]
    assert "Request id: " in answer["errors"][0]["hint"]
    shown = fmx("predict", "--url", server.url, str(broken), FMX_KEY=server.key)
    assert "known image format" in shown.stderr
    assert "Request id: " in shown.stderr


def test_predict_of_a_service_is_refused_with_the_right_exit_code(fmx: Fmx, server: Server, images: list[Path]) -> None:
    image = str(images[0])
    for arguments, code, said in (
        (("--url", server.url, image), 2, "A key is needed"),
        (("--url", server.url, "--key", "wrong", image), 2, "not known"),
        (("--url", "localhost:3000", image), 2, "is no address"),
        (("--url", server.url, "--variant", "fp32", image), 2, "--variant"),
        (("--key", "wrong", "latest", image), 2, "--url"),
        (("latest",), 2, "no input"),
        (("--url", "http://127.0.0.1:9", image), 7, "does not answer"),
        (("--url", server.url, "nowhere.png"), 2, "no file or folder"),
    ):
        result = fmx("predict", *arguments)
        assert result.returncode == code, result.stderr
        assert said in result.stderr


def bentoml_client(server: Server, token: str, calls: str) -> subprocess.CompletedProcess[str]:
    """Run a program with BentoML's client, in a process of its own: the client leaves temporary folders to be found."""
    program = f"import json\nfrom pathlib import Path\nimport bentoml\nclient = bentoml.SyncHTTPClient({server.url!r}, token={token!r})\n{calls}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_bentomls_own_client_gets_the_same_answer(server: Server, images: list[Path]) -> None:
    headers = {"X-API-Key": server.key, "Content-Type": "image/png"}
    expected = [httpx.post(f"{server.url}/v1/predict?top_k=2", content=image.read_bytes(), headers=headers).json() for image in images]
    given = [str(image) for image in images]
    calls = f"print(json.dumps([client.predict(images=[Path(name) for name in {given}], top_k=2), client.call('predict', {given[:1]})]))"
    done = bentoml_client(server, server.key, calls)
    assert done.returncode == 0, done.stderr
    several, one = json.loads(done.stdout)
    assert several["predictions"] == [item["predictions"][0] for item in expected]
    assert several["model"] == expected[0]["model"]
    assert one["predictions"][0]["labels"][:2] == expected[0]["predictions"][0]["labels"]


def test_bentomls_client_needs_the_key_and_is_told_faults(server: Server, images: list[Path], tmp_path: Path) -> None:
    assert "Failed to fetch schema" in bentoml_client(server, "wrong", "").stderr
    (tmp_path / "broken.png").write_bytes(b"broken")
    for call, said in (
        (f"client.predict(images=[{str(tmp_path / 'broken.png')!r}])", "known image format"),
        (f"client.predict(images=[{str(images[0])!r}], top_k=0)", "top_k must be"),
    ):
        assert said in bentoml_client(server, server.key, call).stderr


def test_address_in_place_of_a_file_is_not_fetched_cve_2025_54381(server: Server, images: list[Path]) -> None:
    """CVE-2025-54381: BentoML fetched addresses that stood where files belong, of its own network too."""
    for given, said in (
        (["http://127.0.0.1:9/a.png"], "'application/x-www-form-urlencoded' is not taken"),
        ([str(images[0]), "http://169.254.169.254/latest/meta-data"], "fields that are no files (images)"),
    ):
        assert said in bentoml_client(server, server.key, f"client.predict(images={given})").stderr


def test_bentomls_own_routes_and_pickles_stay_closed_cve_2025_27520(server: Server) -> None:
    headers = {"X-API-Key": server.key}
    for path in ("/predict", "/predict/submit", "/v1/predict/submit", "/healthz", "/docs.json", "/assets/x", "/static_content/x"):
        for method in ("GET", "POST"):
            assert httpx.request(method, server.url + path, headers=headers).status_code == 404, path
    for kind in ("application/vnd.bentoml+pickle", "application/x-www-form-urlencoded"):
        answer = httpx.post(f"{server.url}/v1/predict", content=b"\x80\x04N.", headers={**headers, "Content-Type": kind})
        assert answer.status_code == 415
    routes = httpx.get(f"{server.url}/schema.json", headers=headers).json()["routes"]
    assert [route["route"] for route in routes] == ["/v1/predict"]
    assert httpx.get(f"{server.url}/schema.json").status_code == 401
