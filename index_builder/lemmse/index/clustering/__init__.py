"""Keys in groups: cells, leaves and the Gaussian mixture, with the summary statistics of each group."""
