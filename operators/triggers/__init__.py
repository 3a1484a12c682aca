"""What waits inside the triggerer; installed with the package, never part of a DAG bundle."""
