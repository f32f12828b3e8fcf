"""What the conformance kit needs of this backend: one step with the kit's names (`steps`), the same step sharded over
several devices (`devices`), and the adapters that the kit loads (`adapters`). The optimizer imports nothing from here.
"""

from setadam_jax.conformance.adapters import EagerJAX, JittedJAX

__all__ = ["EagerJAX", "JittedJAX"]
