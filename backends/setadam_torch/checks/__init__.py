"""What options and tensors are and must be: their values, dtypes, memory, and who holds the parts of a DTensor.

The ground floor: nothing here updates a tensor, and nothing is imported from the other folders.
"""
