"""jobs: what runs for hours: the batch captioning job and the training job, behind `capt-batch`."""
