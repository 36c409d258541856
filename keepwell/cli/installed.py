"""What this installation holds: a layer above this one is run as a module, where it is there at all."""

import importlib.util


def is_installed(*modules: str) -> bool:
    """Whether all of these could be imported; a module's own package is, to see it."""
    try:
        return all(importlib.util.find_spec(module) is not None for module in modules)
    except ModuleNotFoundError:
        return False
