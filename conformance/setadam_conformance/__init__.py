"""The SET-Adam conformance kit: anyone's implementation of the step, judged within derived bounds."""
