"""Images: stacks of any sizes, their symmetries, and image files."""
