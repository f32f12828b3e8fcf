"""The first half hour on a GPU, `make gpu`: everything that only a device can show, part by part, into one report.

`parts` lists what is run and what each part needs, `running` runs a part in a process of its own, `report` writes what
came of it. These use nothing but Python's own library, so that the command ends well on a machine that has nothing.
The programs `one_step` and `sharded` are parts.
"""
