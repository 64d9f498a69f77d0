"""``make gpu``: the minutes on a GPU, the most truth first. A file for each part of it, and the run of them all."""
