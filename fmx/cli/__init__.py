"""The command line: one thin file a command. Heavy libraries are imported inside the commands, so `fmx --help` answers at once."""
