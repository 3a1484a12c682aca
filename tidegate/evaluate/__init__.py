"""Says how good a trained model is on its held-out rows, on all and by groups, and beside the champion."""
