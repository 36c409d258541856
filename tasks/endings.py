"""How runs end under names of their own, which the automations know."""

# A backup that is proven in the first destination, and not in the second.
SECOND_FAILED = "SecondFailed"
