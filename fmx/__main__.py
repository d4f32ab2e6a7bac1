"""`python -m fmx` is the command `fmx`."""

from fmx.cli.main import main

if __name__ == "__main__":
    main()
