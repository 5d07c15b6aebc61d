"""Training: one loop, and checkpoints that survive being killed."""
