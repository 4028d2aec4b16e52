"""The layouts that rows are read from, a file each."""
