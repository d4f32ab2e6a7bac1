"""What a package can be exported for: which variant a target is, how its numbers are written, and what a host must have for it."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from export.quantize import Scheme
from fmx.contract import Requires
from fmx.host import VNNI_FLAGS, has_vnni

ARM = ("aarch64", "arm64")


@dataclass(frozen=True)
class Target:
    """A kind of host."""

    variant: str
    requires: Requires
    scheme: Scheme
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """ONNX Runtime's, best first."""

    @property
    def is_here(self) -> bool:
        """Whether this host is of the kind, so that what is timed here holds there: one with VNNI says nothing of one without."""
        return TARGETS[host_target()] is self


TARGETS: dict[str, Target] = {
    "cuda": Target("fp16", Requires(device="cuda"), Scheme(), ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")),
    # signed activations: Arm's SDOT multiplies signed by signed; per channel and 8 bits, for nothing saturates there
    "arm64": Target("int8-arm64", Requires(machine=ARM), Scheme(activations="int8")),
    "vnni": Target("int8", Requires(any_cpu_flag=VNNI_FLAGS), Scheme()),
    "generic": Target("int8-generic", Requires(), Scheme(reduce_range=True)),
}
"""In serving order: a server takes the first variant whose requirements it meets, so what asks for most comes first."""


def host_target() -> str:
    """Name the target that this host is."""
    if platform.machine() in ARM:
        return "arm64"
    return "vnni" if has_vnni() else "generic"


def resolve_targets(asked: tuple[str, ...]) -> tuple[str, ...]:
    """Give the targets in serving order, `host` resolved, each once."""
    found = [host_target() if name == "host" else name for name in asked]
    order = list(TARGETS)
    return tuple(sorted(dict.fromkeys(found), key=order.index))
