"""Pure parts of the build: documents made from sources and locks. build.py, which calls them, reads and writes files.

Needs nothing but Python's standard library: it runs before anything is installed.
"""
