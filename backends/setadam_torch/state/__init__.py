"""What outlives a step: checkpoints, the neutral form of other frameworks, and statistics. Nothing here steps."""
