"""What all tests share: Airflow's own files stay out of the user's home."""

from __future__ import annotations

import os
import tempfile

# read when airflow is first imported, so it must stand before any test module is
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="tidegate-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
