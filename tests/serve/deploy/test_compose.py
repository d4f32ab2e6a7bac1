from __future__ import annotations

import yaml

from tests.serve.deploy.conftest import Written
from tests.serve.deploy.test_kubernetes import check


def test_compose_locks_the_service_down_and_starts_its_monitoring(written: Written) -> None:
    content = yaml.safe_load((written() / "compose.yaml").read_text())
    check(content, "compose")
    assert content["services"].keys() == {"fmx", "prometheus", "grafana"}
    fmx = content["services"]["fmx"]
    assert (fmx["read_only"], fmx["cap_drop"], fmx["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert fmx["stop_grace_period"] == "40s"
    assert {line.partition(":")[0] for line in fmx["tmpfs"]} == {"/tmp", "/var/lib/fmx"}
    assert fmx["volumes"] == [{"type": "bind", "source": "./keys", "target": "/etc/fmx/keys", "read_only": True}]
    assert fmx["deploy"]["resources"]["limits"]["cpus"] == "4"


def test_compose_reserves_a_gpu_and_wants_the_url_of_redis(written: Written) -> None:
    content = yaml.safe_load((written(device="cuda", redis=True) / "compose.yaml").read_text())
    check(content, "compose")
    fmx = content["services"]["fmx"]
    assert fmx["deploy"]["resources"]["reservations"]["devices"] == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert fmx["environment"]["FMX_REDIS_URL"].startswith("${FMX_REDIS_URL:?")


def test_files_that_compose_mounts_are_there(written: Written) -> None:
    folder = written()
    content = yaml.safe_load((folder / "compose.yaml").read_text())
    mounts = [volume for service in content["services"].values() for volume in service["volumes"] if isinstance(volume, dict)]
    for mount in mounts:
        assert mount["source"] == "./keys" or (folder / mount["source"]).exists()
