"""What is wrong with labelled data before anything is trained on them: `fmx data check`, and the quick form that training runs.

findings.py says what is wrong and how grave it is, checked.py what a check answers, and the three checks put the rest together:

- source_check.py reads every file of a source of images: files.py looks at one, thumbnails.py and duplicates.py find copies;
- text_check.py reads every text of a source: texts.py looks at one, scripts.py and text_duplicates.py compare them;
- leakage.py takes rows that are decoded already.
"""

from fmx.data.check.checked import Checked
from fmx.data.check.findings import Finding, Severity
from fmx.data.check.leakage import find_leakage
from fmx.data.check.source_check import DataCheck, check_source
from fmx.data.check.text_check import TextCheck, check_texts

__all__ = ["Checked", "DataCheck", "Finding", "Severity", "TextCheck", "check_source", "check_texts", "find_leakage"]
