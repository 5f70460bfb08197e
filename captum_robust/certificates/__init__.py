"""What no attack can change: bounds for explanations with a stated confidence.

==============================  ===================================================================
:func:`certify_top_k`           how many of the k most relevant features stay within a radius
:func:`certify_pixels`          which pixels stay relevant, which stay irrelevant
:func:`certify_gradient_top_k`  the same for the bare gradient of a small network, by intervals
:func:`collect_counts`          the integers from which both follow: resumed, merged, saved
==============================  ===================================================================
"""

from captum_robust.certificates.bounds import enclosing_l2_radius
from captum_robust.certificates.counts import SmoothingCounts
from captum_robust.certificates.detector import ManipulationDetector, Verdict
from captum_robust.certificates.deterministic import (
    GradientCertificate,
    certify_gradient_top_k,
)
from captum_robust.certificates.pixels import PixelCertificate, certify_pixels
from captum_robust.certificates.sampling import collect_counts
from captum_robust.certificates.top_k import TopKCertificate, certify_top_k

__all__ = [
    "GradientCertificate",
    "ManipulationDetector",
    "PixelCertificate",
    "SmoothingCounts",
    "TopKCertificate",
    "Verdict",
    "certify_gradient_top_k",
    "certify_pixels",
    "certify_top_k",
    "collect_counts",
    "enclosing_l2_radius",
]
