"""How the bundled pair was made: its texts, its training, its figures and its card."""
