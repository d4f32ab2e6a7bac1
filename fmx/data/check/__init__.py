"""What is wrong with labelled data before anything is trained on them: `fmx data check`, and the quick form that training runs.

files.py looks at one file, thumbnails.py and duplicates.py find copies, findings.py says what is wrong and how grave it is, and the two
checks put them together: source_check.py reads every file of a source, leakage.py takes rows that are decoded already.
"""

from fmx.data.check.findings import Finding, Severity
from fmx.data.check.leakage import find_leakage
from fmx.data.check.source_check import DataCheck, check_source

__all__ = ["DataCheck", "Finding", "Severity", "check_source", "find_leakage"]
