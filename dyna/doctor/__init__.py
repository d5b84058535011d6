"""`dyna doctor`: looks at an environment the way an expert would, and says what to mend."""

from dyna.doctor.examination import examine
from dyna.doctor.findings import Finding, exit_code

__all__ = ["Finding", "examine", "exit_code"]
