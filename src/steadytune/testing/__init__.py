"""The contract: what every method must hold, as checks that run on any method, ours or yours.

``python -m steadytune.testing my_method`` runs them and prints a table; in a test, call `check`.
"""

from __future__ import annotations

from steadytune.testing.suite import PROPERTIES as PROPERTIES
from steadytune.testing.suite import check as check
from steadytune.testing.suite import reason_not_applicable as reason_not_applicable
from steadytune.testing.suite import variants as variants
