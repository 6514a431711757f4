"""The command line: a module for each command or group. `main` has the parser.

A module imports what its command needs when the command runs, so that none waits for what it does not use.
"""
