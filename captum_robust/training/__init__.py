"""Models whose explanations resist manipulation: ATEX, and the trainers it is compared with.

:class:`ATEXTrainer` is the one to begin with. :class:`Trainer` is the loop beneath it, which takes
any objective: :class:`Distillation`, :class:`CrossEntropy` (with :class:`SoftplusNetwork` the
paper's baseline), :class:`GradientPenalty` (the naive solution), :class:`AdversarialExamples`
(adversarial training on predictions), or a function of yours. The other side is here too: models
that are manipulated until their explanations lie (:class:`LocationFooling`, :class:`TopKFooling`,
:class:`MassCenterFooling`, :class:`ActiveFooling`, :class:`Fairwashing`). Needs the extra
``training``: ``pip install ".[training]"``.
"""

from captum_robust.training.atex import ATEX, ATEXTrainer
from captum_robust.training.batch import Batch
from captum_robust.training.callbacks import EarlyStopping
from captum_robust.training.checkpoints import Checkpoints
from captum_robust.training.directions import SmoothGradDirections
from captum_robust.training.fairwashing import Fairwashing
from captum_robust.training.manipulation import (
    ActiveFooling,
    LocationFooling,
    MassCenterFooling,
    ModelManipulation,
    TopKFooling,
)
from captum_robust.training.measures import CosineStability
from captum_robust.training.objectives import (
    AdversarialExamples,
    CrossEntropy,
    Distillation,
    GradientPenalty,
    Imitation,
    Objective,
    distillation_loss,
)
from captum_robust.training.points import (
    NeighbourhoodPoints,
    points_parallel,
    points_perpendicular,
)
from captum_robust.training.randomness import Draws
from captum_robust.training.search import PerpendicularSearch
from captum_robust.training.softplus import SoftplusNetwork
from captum_robust.training.state import EpochRecord, Progress, TrainingState
from captum_robust.training.trainer import Trainer

__all__ = [
    "ATEX",
    "ATEXTrainer",
    "ActiveFooling",
    "AdversarialExamples",
    "Batch",
    "Checkpoints",
    "CosineStability",
    "CrossEntropy",
    "Distillation",
    "Draws",
    "EarlyStopping",
    "EpochRecord",
    "Fairwashing",
    "GradientPenalty",
    "Imitation",
    "LocationFooling",
    "MassCenterFooling",
    "ModelManipulation",
    "NeighbourhoodPoints",
    "Objective",
    "PerpendicularSearch",
    "Progress",
    "SmoothGradDirections",
    "SoftplusNetwork",
    "TopKFooling",
    "Trainer",
    "TrainingState",
    "distillation_loss",
    "points_parallel",
    "points_perpendicular",
]
