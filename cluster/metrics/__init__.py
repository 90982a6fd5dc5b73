"""Metrics as Prometheus and Ray users expect them: names, what fills them, and the two ways out."""
