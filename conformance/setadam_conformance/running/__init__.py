"""One run: find the backends, plan what to try, run it in worker processes, and keep the results as plain data.
What must hold is in `properties`; how results are shown is in `reporting`.
"""
