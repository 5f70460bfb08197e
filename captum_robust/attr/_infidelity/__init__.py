"""The attributions of least infidelity: the problem, its least squares, one file for each family.

``removal``, ``squares``, ``shifts`` and ``sampled`` hold the optima for the distributions of the
file of the same name in :mod:`captum_robust.perturbations` (``sampled``: for all others);
``optima`` says which optimum belongs to which distribution.
"""
