"""What runs on this machine already: read from its Docker Engine and its crontabs, judged, and told as a platform.

Nothing that is found is changed. What could not be found out is told as unknown, and never guessed.
"""
