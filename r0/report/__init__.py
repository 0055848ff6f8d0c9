"""A page of runs: ``report`` reads run directories and writes one HTML file that needs no network."""
