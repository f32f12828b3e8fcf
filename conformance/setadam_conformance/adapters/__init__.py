"""Adapters that come with the kit: the specification under each namespace, and any program by its pipes."""
