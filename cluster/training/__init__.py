"""`paceline train`: from a target and prompts to a drafter folder, in stages that can each be resumed."""
