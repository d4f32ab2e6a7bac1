"""Every setting of the service, from `FMX_...` variables, checked at once before anything is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fmx import storage
from fmx.errors import SurroundingsError, UsageError, nearest_names
from fmx.host import usable_cpus
from fmx.images import MAX_PIXELS, PILLOW_MAX_PIXELS
from fmx.package import find_package
from fmx.settings import check
from fmx.texts import MAX_CHARACTERS
from serve.cors import read_origins

OTHER_VARIABLES = ("FMX_HOME", "FMX_DATA", "FMX_CACHE")


class ServeSettings(BaseSettings):
    """What the service can be told."""

    model_config = SettingsConfigDict(frozen=True, env_prefix="FMX_", extra="ignore")

    package: str | None = None
    """A folder or name; default the latest in `FMX_HOME`, and in a bento the latest of those packed beside the code."""
    variant: str | None = None
    follow: Literal["on", "off"] = "on"
    """Serve what the package's name or path leads to now, when that changes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    auth: Literal["on", "off"] = "on"
    keys_file: Path | None = None
    jwt_jwks: str | None = Field(default=None, min_length=1)
    """JWKS file or URL whose keys sign tokens that are taken beside API keys."""
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_leeway_seconds: float = Field(default=30.0, ge=0, le=600)
    """By how much clocks may differ."""
    metrics_token: SecretStr | None = Field(default=None, min_length=1)
    """/metrics is open to everybody unless this is set."""
    pages: Literal["on", "off"] = "on"
    """The page at /, /docs and /openapi.json."""
    cors_origins: str | None = None
    """Origins whose pages may call the service from a browser, separated by commas, or *."""
    redis_url: str | None = Field(default=None, pattern="^rediss?://")
    """Where rates and quotas are counted for all replicas; each worker counts for itself without it."""
    verify_key: Path | None = None
    """Public key (PEM) that must have signed the package; one that it did not sign is not served."""
    tls_certificate: Path | None = None
    """Certificate file (PEM) whose end is in the metrics: the one that `bentoml serve --ssl-certfile` is given."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """auto: text on a terminal, else JSON lines."""
    access_log: Literal["on", "off"] = "on"
    """One line a request, but for probes and scrapes."""
    audit_file: Path | None = None
    """Where to keep the audit log; none is kept unless this is set."""
    shadow: str | None = Field(default=None, min_length=1)
    """A variant, or another package of the same labels and input, that runs a share of the rows in the background."""
    shadow_share: float = Field(default=0.1, gt=0, le=1)
    workers: int = Field(default=1, ge=1, le=256)
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads a worker; default its equal part of the usable CPUs."""
    queue_rows: int = Field(default=256, ge=1)
    """Inputs that may be in a worker at once, from their decoding to their answer; more are refused with 429."""
    batch_rows: int | None = Field(default=None, ge=1, le=1024)
    """Most rows that run together; default what is measured to be fastest here. Rows never wait for company."""
    objective_ms: float | None = Field(default=None, gt=0)
    """Requests that would wait longer are refused at once; default the objective of the measured capacity, where one was measured."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """From a request's arrival to 504, reading and decoding included."""
    body_seconds: float = Field(default=10.0, gt=0)
    """Most that a request's body may take to arrive; then 408."""
    drain_seconds: float = Field(default=5.0, ge=0)
    """How long a worker answers on, not ready, after SIGTERM."""
    drift: Literal["on", "off"] = "on"
    """Compare a sample of rows and answers with the package's reference."""
    drift_window_rows: int = Field(default=2000, ge=2)
    """Sampled rows that are compared, in a worker."""
    drift_least_rows: int = Field(default=200, ge=2)
    """Fewer say nothing."""
    drift_rows_per_second: float = Field(default=5.0, gt=0, le=1000)
    """Most rows that are sampled, in a worker."""
    max_body_bytes: int = Field(default=20_000_000, ge=1)
    bodies_bytes: int = Field(default=400_000_000, ge=1)
    """Bytes of bodies that may be in a worker at once, announced or at most; more are refused with 429."""
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=PILLOW_MAX_PIXELS)
    max_characters: int = Field(default=MAX_CHARACTERS, ge=1, le=10_000_000)
    """Of all texts of a request; what of one is behind the model's window is cut off all the same."""
    max_inputs: int = Field(default=32, ge=1)
    """Images or texts a request."""

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, given: str | None) -> str | None:
        if given is not None:
            read_origins(given)
        return given

    @model_validator(mode="after")
    def _fit_together(self) -> ServeSettings:
        if self.jwt_jwks and not self.jwt_audience:
            raise ValueError("signed tokens need FMX_JWT_AUDIENCE: without it tokens that were made for other services would be taken")
        if not self.jwt_jwks and (self.jwt_issuer or self.jwt_audience):
            raise ValueError("issuer and audience (FMX_JWT_ISSUER, FMX_JWT_AUDIENCE) do nothing without FMX_JWT_JWKS")
        if self.drift_least_rows > self.drift_window_rows / 2:
            raise ValueError("a drift window (FMX_DRIFT_WINDOW_ROWS) must hold twice the least rows (FMX_DRIFT_LEAST_ROWS)")
        if self.max_body_bytes > self.bodies_bytes:
            raise ValueError("bodies in a worker (FMX_BODIES_BYTES) must have room for one of FMX_MAX_BODY_BYTES")
        if self.max_inputs > self.queue_rows:
            most = f"FMX_QUEUE_ROWS, {self.queue_rows}"
            raise ValueError(f"a request of FMX_MAX_INPUTS, {self.max_inputs}, would never be taken where a worker takes fewer ({most})")
        return self

    @property
    def origins(self) -> frozenset[str]:
        """Origins whose pages may call the service."""
        return read_origins(self.cors_origins) if self.cors_origins is not None else frozenset()

    def limit_of(self, noun: str) -> int:
        """Give the size up to which an input of a task is taken: pixels of an image, characters of a text or pair."""
        return self.max_pixels if noun == "image" else self.max_characters

    @property
    def worker_threads(self) -> int:
        """Threads of one worker: as set, or its equal part of the usable CPUs, at least 1."""
        return self.threads or max(1, usable_cpus() // self.workers)


def package_path(settings: ServeSettings) -> Path:
    """Find the package to serve. Raises: `UsageError`."""
    packed = Path(__file__).parent.parent / "packages"
    if settings.package is None and not (storage.home() / "packages" / storage.LATEST).exists() and (packed / storage.LATEST).exists():
        return find_package(packed / storage.LATEST)
    return find_package(settings.package)


def load_settings() -> ServeSettings:
    """Read the settings from the environment.

    Raises:
        UsageError: a value out of range, all of them named, or a variable that looks like a misspelt setting.
    """
    known = [f"FMX_{name.upper()}" for name in ServeSettings.model_fields]
    for name in os.environ:
        if name.startswith("FMX_") and name not in known and name not in OTHER_VARIABLES and _is_near(name, known):
            raise UsageError(f"There is no setting {name}.", hint=f"Did you mean {nearest_names(name, known, 1)}?")
    return check(ServeSettings, {}, "the table of settings in README.md", prefix="FMX_")


def _is_near(name: str, known: list[str]) -> bool:
    """A cluster adds variables such as FMX_SERVE_PORT_3000_TCP for a service's name; only a near miss is a mistake."""
    import difflib

    return bool(difflib.get_close_matches(name, known, n=1, cutoff=0.85))


def default_keys_file() -> Path:
    """Return where keys live unless `FMX_KEYS_FILE` says otherwise: `.fmx/keys.json` in `FMX_HOME`."""
    return storage.home() / ".fmx" / "keys.json"


def in_cluster() -> bool:
    """Say whether this is a production container or a cluster, where a key made up at start would be lost with the container.

    `/.dockerenv` is no sign: development containers and build machines have it too.
    """
    return any(os.environ.get(name) for name in ("BENTOML_CONTAINERIZED", "KUBERNETES_SERVICE_HOST", "K_SERVICE"))


def key_path(settings: ServeSettings) -> Path:
    """Return the service's key file: `FMX_KEYS_FILE`, or the default one where a key made at start would not be lost.

    Raises:
        SurroundingsError: in a container or a cluster without `FMX_KEYS_FILE`.
    """
    if settings.keys_file is not None:
        return settings.keys_file
    if in_cluster():
        raise SurroundingsError(
            "In a container or a cluster the keys must be given: a key made here would be lost with the container.",
            hint="Set FMX_KEYS_FILE to a mounted file made with fmx keys create NAME, or FMX_AUTH=off behind a gateway that checks callers.",
        )
    return default_keys_file()
