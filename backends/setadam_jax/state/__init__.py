"""Reading and replacing the state between steps: statistics for logs, and the neutral form.

In this folder: functions of a whole optimizer state. Not in it: anything that an update calls.
"""
