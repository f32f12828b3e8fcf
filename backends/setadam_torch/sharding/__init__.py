"""Steps of parameters of which each process holds a part: the collective between the two passes of a path.

No arithmetic of a step is here, and nothing of optimizers.
"""
