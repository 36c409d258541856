"""A disaster from the first look to the post-mortem: one case, one journal, one timeline."""
