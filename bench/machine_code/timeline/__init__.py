"""A hot loop played in time on a simulated Hopper multiprocessor."""
