"""What a backend is given: one example as data, the number formats, the strategies that draw examples, and recorded
training. Nothing here steps a backend to judge it.
"""
