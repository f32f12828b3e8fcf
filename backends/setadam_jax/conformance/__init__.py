"""How the conformance kit judges this backend: one step by the kit's names (`steps`), the same over several devices
(`devices`), and the adapters that the kit loads (`adapters`). Users of the optimizer import nothing from here.
"""

from setadam_jax.conformance.adapters import EagerJAX, JittedJAX

__all__ = ["EagerJAX", "JittedJAX"]
