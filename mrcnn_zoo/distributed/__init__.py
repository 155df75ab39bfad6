"""Processes of a distributed run: rank, world size, collectives, and the launcher."""
