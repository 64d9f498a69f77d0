"""How something is measured: clocks, rounds, intervals, memory, and where a figure comes from."""
