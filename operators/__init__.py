"""Airflow's side of Tidegate: operators and sensors, a file per stage."""
