"""The CPython shell: what a server or a command line needs around the core."""
