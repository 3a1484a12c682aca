"""What all tests share: Airflow's own files stay out of the user's home."""

from __future__ import annotations

import os
import tempfile

from hypothesis import settings

# read when airflow is first imported, so it must stand before any test module is
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="tidegate-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

# generated inputs: few by default, 10,000 for each property by HYPOTHESIS_PROFILE=nightly
settings.register_profile("default", deadline=None)
settings.register_profile("nightly", deadline=None, max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
