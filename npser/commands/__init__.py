"""The commands: cli parses and calls; each command has a file of its name, with ``run``, and what it alone needs."""
