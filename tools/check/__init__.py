"""Programs that check the whole system: losses against references and other commits, killed runs, full-size data."""
