"""What is run and compared, and what its results are held against."""
