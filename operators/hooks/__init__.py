"""From an Airflow connection to a tidegate client."""
