"""Restoring with a way back: choose a set, plan, restore beside the live database, swap it in, and undo that."""
