"""Tables, plots and pages from results files; nothing here computes a result."""
