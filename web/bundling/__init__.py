"""The parts of build.py: documents made from sources and locks by pure functions (inventory, page, releases, wheel); what
a build needs on this machine (setup); and how its commands run and what people see of them (steps).

Needs nothing but Python's standard library: it runs before anything is installed.
"""
