"""Real data, one reader a file. Images are float32 in [-1, 1], (n, height, width, channels); labels are integers."""
