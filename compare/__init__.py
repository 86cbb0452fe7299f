"""What masks changed, who scores what, and whether a new checkpoint holds."""
