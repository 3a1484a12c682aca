"""What the tests of the backend `tfserving` run in the training environment."""
