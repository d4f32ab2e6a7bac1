"""The errors that only a service has; the others are in fmx/errors.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fmx.errors import FmxError

if TYPE_CHECKING:
    from serve.access.limits import Standing


class UnauthorisedError(FmxError):
    """No key, or one that is not known or no longer valid."""

    code, http_status = "unauthorised", 401


class ForbiddenError(FmxError):
    """A good credential that is not for this."""

    code, http_status = "forbidden", 403


class OverQuotaError(FmxError):
    """A caller's rate or daily quota is used up."""

    http_status = 429

    def __init__(self, limit: str, standings: list[Standing], *, retry_after_s: int) -> None:
        used = standings[-1]
        what = f"The quota of {used.limit} requests a day is" if limit == "quota" else f"The rate of {used.limit} requests in {used.window_s} s is"
        super().__init__(f"{what} used up.", hint=f"Try again in {retry_after_s} s.")
        self.code = f"over_{limit}"
        self.standings = standings
        self.retry_after_s = retry_after_s


class UnknownPathError(FmxError):
    """A path that the service does not have."""

    code, http_status = "not_found", 404


class MethodError(FmxError):
    """A known path with another method."""

    code, http_status = "method_not_allowed", 405


class OverloadedError(FmxError):
    """More than the queue takes; `retry_after_s` comes from the measured drain rate."""

    code, http_status = "overloaded", 429

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, hint=f"Try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class NotReadyError(FmxError):
    """Starting, draining, or a package that was refused."""

    code, http_status = "not_ready", 503


class RefusedError(FmxError):
    """A package that a worker would not serve; what was served is served on."""

    code, http_status = "package_refused", 409


class ShapeError(FmxError):
    """A tensor of another name, type or shape than the model takes."""

    code, http_status = "shape", 422


class SlowBodyError(FmxError):
    """A request's body that did not arrive in time."""

    code, http_status = "slow_body", 408


class DeadlineError(FmxError):
    """The answer would come too late."""

    code, http_status = "deadline", 504


def too_late() -> DeadlineError:
    """Say that a request's deadline has passed."""
    return DeadlineError("The answer did not come in time.", hint="Send fewer at once, or add replicas.")
