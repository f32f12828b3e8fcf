"""What is right: the oracle and its bound, a second oracle in exact arithmetic, the comparison of an answer with
them, and the bench on which a backend takes its steps. It does not know which examples are tried, or why.
"""
