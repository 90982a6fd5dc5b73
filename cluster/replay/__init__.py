"""Real traffic recorded, and policies driven over it offline. `record_command` and `replay_command` are the callers."""
