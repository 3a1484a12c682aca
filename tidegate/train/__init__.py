"""A gang member: it reads its share of a dataset, trains with its peers, and the first of them publishes the model."""
