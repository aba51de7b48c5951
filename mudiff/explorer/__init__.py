"""An explorer of masks and syntheses: choose a slice, a step, a region; switch conditions off or move them."""
