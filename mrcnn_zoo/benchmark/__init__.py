"""How fast we are, and how much memory we need: against torchvision, measured in turns."""
