"""One module per question of the paper."""
