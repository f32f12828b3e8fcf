"""What a correct step is: the oracle and its bound, a second oracle in exact arithmetic, the comparison of a backend's
result with them, and the bench that runs a backend's steps. Which examples are tried, and why, is decided elsewhere.
"""
