"""Speed and cost of training and inference, as ratios measured in one run."""
