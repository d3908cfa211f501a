"""Same examples on every machine, and no deadlines: a test never depends on how fast it runs."""

from hypothesis import settings

settings.register_profile("convergence", deadline=None, derandomize=True, database=None)
settings.load_profile("convergence")
