"""The ways to compute a step, one file or folder each: `protocol` says what a path is, `choice` which one is taken.

A path takes tensors that have been checked, and knows nothing of optimizers, checkpoints or processes. Paths do not
import each other, except that `blocks` uses the two passes of `foreach`.
"""
