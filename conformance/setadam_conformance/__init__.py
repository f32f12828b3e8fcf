"""The SET-Adam conformance kit: it judges any implementation of the step within derived error bounds.

A backend implements `protocol`, and a user runs `cli`. A folder imports only from the folders to its right:

    commands → teeth, reporting → running → properties, vectors → judging, adapters → cases → protocol

No framework is imported until a backend that needs it is selected.
"""
