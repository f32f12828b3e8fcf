"""Kernels for CUDA devices in Triton: `kernels` has the arithmetic, `tables` says where tensors lie, and `launches`
runs them. Nothing here imports Triton before a step needs it.
"""
