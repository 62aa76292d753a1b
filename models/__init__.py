"""Models that ship with Cellwire, and the tools that make and fetch them."""
