"""The compiled kernel of `setadam_numpy`, given torch's tensors: `path` finds their addresses one by one, `at_once`
those of a usual step in one compiled loop. No arithmetic is here.
"""
