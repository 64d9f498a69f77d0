"""What readers see of a run: tables, pictures and a page."""
