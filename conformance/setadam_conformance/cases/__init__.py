"""The inputs of a step: one example as data, the number formats, the strategies that draw examples, and recorded
training runs. Nothing here judges a backend.
"""
