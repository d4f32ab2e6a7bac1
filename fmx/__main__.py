"""The command `fmx`, also `python -m fmx`. Ctrl-C is quiet from the first moment on, while the command line itself is still loading."""

from __future__ import annotations

import sys


def main() -> None:
    """Load and run the command line."""
    try:
        from fmx.cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("fmx: interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
