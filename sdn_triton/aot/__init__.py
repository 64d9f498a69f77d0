"""Ahead of time: what a launch becomes on a device that is not there."""
