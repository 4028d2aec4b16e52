"""What a run leaves behind: its folder, its files, the machine it ran on, its predictions."""
