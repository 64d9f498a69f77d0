"""The operators: for each, its paths, its derivatives and the choice between the paths."""
