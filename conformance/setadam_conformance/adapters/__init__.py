"""Adapters that come with the kit: the specification under each namespace (`spec`), any program over pipes
(`command`), and what in-place optimizers share (`inplace`). A framework's own adapters are in its backend.
"""
