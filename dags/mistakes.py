"""Makes no DAG: its import error in Airflow's UI lists the mistakes of delivery files, while all other DAGs load."""

from operators.deliveries import refuse_broken_deliveries

refuse_broken_deliveries()
