"""Keepwell as one more platform: what it must keep of itself, and how it takes that back on a new machine."""
