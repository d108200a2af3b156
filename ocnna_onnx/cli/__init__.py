"""The click commands: parse, call the library, print; no logic."""
