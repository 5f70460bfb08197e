"""Attacks on explanations, with the interface of :mod:`torchattacks`."""

from captum_robust.attacks._explained import Explained
from captum_robust.attacks.auto import AutoExplanationAttack
from captum_robust.attacks.balls import L2, LInf
from captum_robust.attacks.black_box import BlackBoxExplanationAttack
from captum_robust.attacks.dombrowski import Dombrowski
from captum_robust.attacks.explanation_attack import ExplanationAttack
from captum_robust.attacks.ghorbani import GhorbaniMassCenter, GhorbaniTarget, GhorbaniTopK
from captum_robust.attacks.measures import (
    DistanceTo,
    MapCorrelation,
    Measure,
    RankCorrelation,
    StructuralSimilarity,
    TopKIntersection,
)
from captum_robust.attacks.random_sign import RandomSign
from captum_robust.attacks.report import AttackReport, Indicator
from captum_robust.attacks.scaffold import ScaffoldedModel, ScaffoldReport
from captum_robust.attacks.schedules import GeometricGrowth, LinearDecay

__all__ = [
    "L2",
    "AttackReport",
    "AutoExplanationAttack",
    "BlackBoxExplanationAttack",
    "DistanceTo",
    "Dombrowski",
    "Explained",
    "ExplanationAttack",
    "GeometricGrowth",
    "GhorbaniMassCenter",
    "GhorbaniTarget",
    "GhorbaniTopK",
    "Indicator",
    "LInf",
    "LinearDecay",
    "MapCorrelation",
    "Measure",
    "RandomSign",
    "RankCorrelation",
    "ScaffoldReport",
    "ScaffoldedModel",
    "StructuralSimilarity",
    "TopKIntersection",
]
