"""The attributions of least infidelity: the problem, its least squares, one file an optimum."""
