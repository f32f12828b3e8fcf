"""The commands of `setadam-conformance`, one file for each: its options and what it does. A command calls the other
folders and turns the outcome into an exit code. It does not judge, run or format anything itself.
"""
