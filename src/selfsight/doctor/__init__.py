"""The doctor of picture sets: what is wrong with the files, copies, leaks into the test part, unbalanced classes."""

from selfsight.doctor.examine import Checked, Finding
from selfsight.doctor.kinds import KINDS, Limits
from selfsight.doctor.run import check

__all__ = ["KINDS", "Checked", "Finding", "Limits", "check"]
