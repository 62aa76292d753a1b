"""Models: on disk, their contract, the cell that runs them, and the proof that its wiring is right."""
