"""The parts of build.py: documents that pure functions make of sources and locks (inventory, page, releases, wheel);
what a build needs on this machine (setup); how its commands run, and what people see of them (steps).

Needs nothing but Python's standard library: it runs before anything is installed.
"""
