"""One call over explanations, attacks, certificates and metrics: can this explanation be trusted?

==========================  =======================================================================
:func:`audit`               ask of each explanation of a model whether it can be trusted
:class:`AuditReport`        the answer: table, JSON, one HTML file, figure
:class:`Rules`              what the verdicts follow from
:class:`Budget`             how much work is done
:func:`compare`             two reports beside each other
==========================  =======================================================================

The same from a shell: ``captum-robust audit --help``.
"""

from captum_robust.audit.comparison import Comparison, compare
from captum_robust.audit.report import AuditReport
from captum_robust.audit.results import Example, ExplanationSummary, ModelCheck
from captum_robust.audit.run import audit
from captum_robust.audit.settings import Budget
from captum_robust.audit.summary import Estimate
from captum_robust.audit.verdict import Rules, Verdict

__all__ = [
    "AuditReport",
    "Budget",
    "Comparison",
    "Estimate",
    "Example",
    "ExplanationSummary",
    "ModelCheck",
    "Rules",
    "Verdict",
    "audit",
    "compare",
]
