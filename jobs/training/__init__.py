"""training: from photographs with human captions to a checkpoint."""
