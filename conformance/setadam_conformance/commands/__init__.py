"""The commands of `setadam-conformance`, one file each: its options, and what it does. How a backend is judged, run or
reported is decided elsewhere; a command only calls it and turns the outcome into an exit code.
"""
