"""One module for each framework that finds its parts in a registry; nothing here is imported by the library itself."""
