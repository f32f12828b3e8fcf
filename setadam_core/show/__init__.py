"""What the three operations do to a layer, as numbers and as pictures.

In this folder: what reads a step that `setadam_core.spec` computes. Not in it: anything that changes a step, or a
formula of its own. Only `plots` needs matplotlib, and imports it when a figure is drawn.
"""
