"""Speed and peak memory of models, beside torchvision's, of data loading and of evaluation."""
