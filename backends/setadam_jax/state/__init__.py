"""What is read from a state, or put into it, between steps: statistics for logs, and the neutral form.

In this folder: functions that take a whole optimizer state. Not in it: anything that an update calls.
"""
